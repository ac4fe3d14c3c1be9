"""Processes of a job, started side by side on this machine: each runs a program of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = str(Path(__file__).parents[1])


@dataclass(frozen=True)
class Ended:
    """The end of a process: its exit code and its output."""

    code: int
    out: str
    err: str


def free_port() -> int:
    """A port that nobody listens at just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(*words: str) -> list[str]:
    """`qa-fast` with these arguments."""
    return [sys.executable, "-m", "qa_fast.cli", *words]


def program(text: str) -> list[str]:
    """Python that runs this."""
    return [sys.executable, "-c", text]


def start(words: list[str], **environment: str) -> subprocess.Popen[str]:
    """A process on JAX with one CPU device, as `ended` waits for."""
    return subprocess.Popen(
        words,
        env=os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": ROOT, "XLA_FLAGS": ""} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(processes: list[subprocess.Popen[str]], seconds: float = 400) -> list[Ended]:
    """Return the outcomes of the processes; one that takes longer is killed and fails the test."""
    results = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=seconds)
            results.append(Ended(process.returncode, out, err))
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
    return results
