"""Ends a command on Ctrl-C, SIGTERM or SIGHUP: with one line, 128 + the signal's number, and nothing left behind.

A signal raises `Stopped` in the main thread, which cleans up on its way out. It is held back while that thread imports
a module or compiles a kernel: an exception that is raised there is swallowed, or printed, by the library that called
back. If nothing is left to clean up, the process ends at once instead. If it has not ended after `GRACE` seconds, or a
second signal comes, a thread removes the temporary files and ends it, even while the main thread is in native code.

Nothing of this happens until `hold` is called, which commands do and a library must not.
"""

from __future__ import annotations

import os
import signal
import sys

# Until `hold` has run, Python handles signals. So this module imports little, and other modules only in functions.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, NoReturn

# Seconds for cleaning up.
GRACE = 3.0
# Seconds after which a signal that was held back is tried again.
_AGAIN = 0.02
# The signals that end a command, of those that this platform has.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_DELICATE = ("numba", "llvmlite", "importlib", "_frozen_importlib", "_frozen_importlib_external")


class Stopped(BaseException):
    """A signal asked this command to stop. It is no `KeyboardInterrupt`, which some libraries take for their own."""


class _State:
    """What has happened so far; there is one of it in a process."""

    held = False
    number = 0  # the first signal
    raised = False
    leaving = False
    patient = 0
    told = False
    ending: Any = None  # a lock that the thread holds which ends the process


def hold_in_a_command() -> None:
    """Call `hold` if this process was started as `qa-fast` or as `python -m qa_fast.cli`."""
    name = (getattr(sys, "argv", None) or [""])[0]  # an interpreter within another program may have none
    if os.path.basename(name) == "qa-fast" or (name == "-m" and "qa_fast.cli" in sys.orig_argv):
        hold()


def hold() -> None:
    """Handle the signals of this process from now on. Signals that its parent had ignored stay ignored."""
    if _State.held or os.name != "posix":
        return
    try:
        for number in (*SIGNALS, signal.SIGALRM):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _handle)
    except ValueError:  # not in the main thread
        return
    _State.held = True
    import threading

    _State.ending = threading.Lock()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    sys.unraisablehook = _unraisable
    threading.Thread(target=_watch, args=(reading,), daemon=True, name="signals").start()
    # No signal may reach a forked process before it has let go.
    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS),
        after_in_child=_let_go,
    )


def _let_go() -> None:
    """Handle signals as Python does again: a forked process has no thread that watches, but its parent's pipe."""
    signal.set_wakeup_fd(-1)
    for number in (*SIGNALS, signal.SIGALRM):
        if signal.getsignal(number) == _handle:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    sys.unraisablehook = sys.__unraisablehook__
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


class Patient:
    """A context in which the first signal is left to handlers of the caller, which ends in its own time."""

    def __enter__(self) -> None:
        _State.patient += 1

    def __exit__(self, *error: object) -> None:
        _State.patient -= 1


def exit_code() -> int:
    """Return the exit code of a command that was stopped."""
    return 128 + (_State.number or signal.SIGINT)


def tell() -> None:
    """Print that the command was stopped, once."""
    if _State.told:
        return
    _State.told = True
    try:
        # A progress bar hides the cursor.
        before = "\r\x1b[K\x1b[?25h" if sys.stderr.isatty() else ""
        os.write(sys.stderr.fileno(), f"{before}stopped\n".encode())
    except (AttributeError, OSError, ValueError):  # standard error is missing or closed
        return


def leave() -> None:
    """Let a signal end the process at once from now on, since only Python's own end is left."""
    _State.leaving = True


def finish() -> NoReturn:
    """Remove what the command had not finished, and end the process at once."""
    if _State.ending is not None and not _State.ending.acquire(blocking=False):
        signal.pause()  # the other thread ends the process
    try:
        _unfinished(remove=True)
        _kill_children()
    finally:
        tell()
        os._exit(exit_code())


def _handle(number: int, frame: FrameType | None) -> None:
    """Raise `Stopped` if the main thread can be interrupted here."""
    if number != signal.SIGALRM and not _State.number:
        _State.number = number
    if _State.leaving:
        finish()
    if _State.raised:
        return
    if not _is_delicate(frame):
        _State.raised = True
        raise Stopped
    if not _unfinished():
        finish()
    signal.setitimer(signal.ITIMER_REAL, _AGAIN)


def _is_delicate(frame: FrameType | None) -> bool:
    """Tell whether a module is being imported, or a kernel compiled, below a frame."""
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] in _DELICATE:
            return True
        frame = frame.f_back
    return False


def _unraisable(unraisable: Any) -> None:
    """Try again if `Stopped` was raised where Python cannot raise anything, such as in a finalizer."""
    if unraisable.exc_type is not Stopped:
        sys.__unraisablehook__(unraisable)
        return
    _State.raised = False
    signal.setitimer(signal.ITIMER_REAL, _AGAIN)


def _watch(reading: int) -> None:
    """Wait for signals, whose numbers Python writes to a pipe, and end the process if it does not end by itself."""
    import select
    import time

    deadline: float | None = None
    while True:
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([reading], [], [], timeout)[0]:
            finish()
        for number in os.read(reading, 64):
            if number not in SIGNALS:
                continue
            if deadline is not None:
                finish()
            if not _State.patient or _State.number:
                deadline = time.monotonic() + GRACE
            _State.number = _State.number or number


def _unfinished(remove: bool = False) -> bool:
    """Tell whether the command has files that it has not finished, and remove them if asked to."""
    temporary = sys.modules.get("qa_fast.temporary")  # not imported here: a process without it has no files
    if not hasattr(temporary, "remove_unfinished"):  # it is being imported
        return False
    assert temporary is not None
    if remove:
        temporary.remove_unfinished()
    return bool(temporary.has_unfinished())


def _kill_children() -> None:
    """Kill the processes that this one started; only Linux lists them."""
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/children", encoding="ascii") as file:
            for child in file.read().split():
                try:
                    os.kill(int(child), signal.SIGKILL)
                except OSError:  # it has ended
                    continue
