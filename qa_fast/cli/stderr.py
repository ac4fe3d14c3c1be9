"""Keeps internal messages of TensorFlow and Ray off the terminal.

Their C++ parts write a few lines at the start that no setting silences. The lines go to file descriptor 2, so that
descriptor becomes a pipe, whose reader drops the known lines and passes on everything else. Python's own `sys.stderr`,
and with it progress bars, stays connected to the terminal.
"""

from __future__ import annotations

import atexit
import os
import re
import sys
import threading

_NOTES = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog|"
    rb"[IW]\d{4} [\d:. ]+\d+ \S+\.cc:\d+\]|"
    # A missing feature of the processor, which model/precision.py finds by trying.
    rb"E\d{4} [\d:. ]+\d+ util\.cc:\d+\] oneDNN supports DT_|"
    rb"To enable the following |"
    # Ray's note on actors whose arguments this process keeps as long as they live.
    rb"\[\S+ \S+ E \d+ \d+\] core_worker\.cc:\d+: Actor with class name: 'MapWorker"
)
_filtering = False


def hush_native_notes() -> None:
    """Filter what native code writes to standard error from now on; at most once, and only on POSIX systems."""
    global _filtering
    if _filtering or os.name != "posix":
        return
    try:
        if sys.stderr.fileno() != 2:
            return  # another program, such as a test runner, has replaced standard error
    except (AttributeError, OSError, ValueError):
        return
    _filtering = True
    sys.stderr.flush()
    terminal = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    sys.stderr = os.fdopen(os.dup(terminal), "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
    reader = threading.Thread(target=_pass_on, args=(reading, terminal), daemon=True)
    reader.start()
    atexit.register(_finish, reader, terminal)


def _finish(reader: threading.Thread, terminal: int) -> None:
    """Pass on the rest before the process ends. Wait at most a second: a child process may keep the pipe open."""
    os.dup2(terminal, 2)
    reader.join(timeout=1)


def _pass_on(reading: int, terminal: int) -> None:
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        rest = b""
        while block := pipe.read(1 << 16):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                if not _NOTES.match(line):
                    os.write(terminal, line + b"\n")
            if rest and not (_NOTES.match(rest) or rest[:1] in b"WIT["):
                os.write(terminal, rest)  # an unfinished line of something else: a prompt, a bar
                rest = b""
        if rest and not _NOTES.match(rest):
            os.write(terminal, rest)
