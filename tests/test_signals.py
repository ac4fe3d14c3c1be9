"""A signal ends a command in one line and leaves nothing behind, whatever the main thread is doing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# What a command does around its work; `kill` sends the signal to the process itself.
SCRIPT = """
import ctypes, os, sys, threading, time
from pathlib import Path
from qa_fast import signals, store
signals.GRACE = 0.2
signals.hold()
def kill():
    os.kill(os.getpid(), {number})
def work():
    {work}
try:
    work()
except signals.Stopped:
    signals.tell()
    sys.exit(signals.exit_code())
print("not stopped", file=sys.stderr)
"""
IN_A_FILE = "with store.whole_file(Path('new/out')) as file: file.write_text('half'); "
WORK = {
    "between two instructions": IN_A_FILE + "kill(); time.sleep(30)",
    "in native code": IN_A_FILE + "threading.Timer(0.01, kill).start(); ctypes.CDLL(None).sleep(30)",
    "in an import, with nothing to clean up": "import interrupted",
    "in an import": IN_A_FILE + "import interrupted; time.sleep(30)",
    "in a finalizer": IN_A_FILE + "type('A', (), {'__del__': lambda self: kill()})(); time.sleep(30)",
    "in a callback": IN_A_FILE + "ctypes.CFUNCTYPE(None)(kill)(); time.sleep(30)",
    "twice": IN_A_FILE + "threading.Timer(0.01, lambda: (kill(), kill())).start(); ctypes.CDLL(None).sleep(30)",
    "where the exception is swallowed": IN_A_FILE + "exec('try: kill(); time.sleep(30)\\nexcept: time.sleep(30)')",
}


def environment(**settings: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **settings}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK.keys())
def test_a_signal_ends_a_command(tmp_path: Path, work: str) -> None:
    (tmp_path / "interrupted.py").write_text("import __main__\n__main__.kill()\nfor _ in range(3): print(end='')\n")
    (tmp_path / "new").mkdir()
    number = SIGNALS[len(work) % len(SIGNALS)]
    script = SCRIPT.format(number=int(number), work=work)
    done = subprocess.run(
        [sys.executable, "-B", "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.stderr, done.returncode) == ("stopped\n", 128 + number)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_forked_process_is_stopped_alone() -> None:
    work = "child = os.fork() or time.sleep(30); os.kill(child, {0}); print(os.waitpid(child, 0)[1] == {0}); kill()"
    script = SCRIPT.format(number=int(signal.SIGTERM), work=work.format(int(signal.SIGTERM)))
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "stopped\n", 128 + signal.SIGTERM)


def test_ignored_signals_stay_ignored() -> None:
    """As `nohup` has it."""
    script = SCRIPT.format(number=int(signal.SIGHUP), work="kill()")
    done = subprocess.run(
        ["nohup", sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr.endswith("not stopped\n")


@pytest.mark.slow
def test_a_platform_may_lack_sighup(monkeypatch: pytest.MonkeyPatch) -> None:
    from qa_fast import signals
    from qa_fast.serve.server import run_server
    from qa_fast.train.stopping import interruptible

    monkeypatch.delattr(signal, "SIGHUP")
    monkeypatch.setattr(signals, "SIGNALS", [signal.SIGINT, signal.SIGTERM])
    with interruptible() as event:
        os.kill(os.getpid(), signal.SIGTERM)
        assert event.wait(60)
    run_server(SimpleNamespace(run=lambda sockets: None), socket.socket())  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc here")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_command_that_compiles_kernels_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "qa_fast.cli", "warmup"], stderr=subprocess.PIPE, text=True,
        env=environment(NUMBA_CACHE_DIR=str(tmp_path)),
    )  # fmt: skip
    while not any(tmp_path.rglob("*.nb?")) and run.poll() is None:  # the first kernel is compiled
        time.sleep(0.001)
    run.send_signal(number)
    _, errors = run.communicate(timeout=60)
    assert (errors, run.returncode) == ("stopped\n", 128 + number)
