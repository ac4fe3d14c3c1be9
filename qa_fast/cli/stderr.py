"""Notes of TensorFlow and Ray about themselves, kept off the user's terminal.

Its C++ parts write a few lines on start that no setting of theirs silences. They go to file descriptor 2, so that
descriptor becomes a pipe whose reader drops the known lines and passes on everything else; Python's own `sys.stderr`,
and with it progress bars, keeps the terminal.
"""

from __future__ import annotations

import os
import re
import sys
import threading

_NOTES = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog|"
    rb"[IW]\d{4} [\d:. ]+\d+ \S+\.cc:\d+\]|"
    # What a processor lacks, called an error: it is found out on purpose, by trying (model/precision.py).
    rb"E\d{4} [\d:. ]+\d+ util\.cc:\d+\] oneDNN supports DT_|"
    rb"To enable the following |"
    # Ray's, of actors whose arguments this process keeps for as long as they live.
    rb"\[\S+ \S+ E \d+ \d+\] core_worker\.cc:\d+: Actor with class name: 'MapWorker"
)
_begun = False


def hush_native_notes() -> None:
    """Filter what native code writes to standard error from here on; once a process, and only where that works."""
    global _begun
    if _begun or os.name != "posix":
        return
    try:
        if sys.stderr.fileno() != 2:
            return  # somebody else, a test runner say, has taken standard error over
    except (AttributeError, OSError, ValueError):
        return
    _begun = True
    sys.stderr.flush()
    terminal = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    sys.stderr = os.fdopen(os.dup(terminal), "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
    threading.Thread(target=_pass_on, args=(reading, terminal), daemon=True).start()


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
