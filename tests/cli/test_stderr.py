from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, sys
from qa_fast.cli.stderr import hush_native_notes
hush_native_notes()
hush_native_notes()
os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\\n")
os.write(2, b"I0000 00:00:1795404771.535573   15161 port.cc:153] custom operations are on.\\n")
os.write(2, b"E0000 00:00:1795541118.594993   11770 util.cc:131] oneDNN supports DT_BFLOAT16 only on AVX-512.\\n")
os.write(2, b"E0000 00:00:1795541118.594993   11770 alloc.cc:7] no memory is left\\n")
os.write(2, b"[2026-11-25 20:00:18,817 E 26058 26058] core_worker.cc:2465: Actor with class name: 'MapWorker(x)'\\n")
os.write(2, b"WARNING: something that matters\\n")
print("bar 50%", end="", file=sys.stderr, flush=True)
os.write(2, b"Warning without a line end")
"""


def test_native_notes_are_dropped_and_all_else_is_kept() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "something that matters" in done.stderr
    assert "MapWorker" not in done.stderr
    assert "bar 50%" in done.stderr
    assert done.stderr.endswith("Warning without a line end")
    assert "absl" not in done.stderr
    assert "port.cc" not in done.stderr
    assert "oneDNN" not in done.stderr
    assert "no memory is left" in done.stderr


def test_an_error_message_reaches_the_user() -> None:
    command = [sys.executable, "-m", "qa_fast.cli", "answer", "nowhere/at/all", "-q", "Who?", "-c", "Ane."]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: MODEL must be")
    assert "Traceback" not in done.stderr
