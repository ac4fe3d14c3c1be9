"""The `qa-fast` command as tests of documents run it: all engines count as equally fast, so none is measured, and one
epoch is trained by default.

Measuring takes a process per engine and precision, and would be repeated for each new cache. A test of the real
measurement is in tests/infer/test_engines.py.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def equal_speeds(module: str, arguments: Sequence[str], seconds: float | None = None) -> str:
    """Stand in for the process that measures an engine: return the same speed for each."""
    assert module == "qa_fast.infer.measure"
    return "100.0"


def write_command(folder: Path) -> None:
    """Write an executable `qa-fast` into a folder, for the front of `PATH`."""
    folder.mkdir()
    command = folder / "qa-fast"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.unmeasured "$@"\n', encoding="utf-8")
    command.chmod(0o755)


if __name__ == "__main__":
    from qa_fast.cli.app import run
    from qa_fast.infer import choose
    from qa_fast.train import sizing

    choose.run_module = equal_speeds
    sizing.CHOICES = (sizing.Choice(float("inf"), 1, 1e-4),)
    run()
