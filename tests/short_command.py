"""The `qa-fast` command as tests of documents run it: one epoch is trained by default."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def write_command(folder: Path) -> None:
    """Write an executable `qa-fast` into a folder, for the front of `PATH`."""
    folder.mkdir()
    command = folder / "qa-fast"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.short_command "$@"\n', encoding="utf-8")
    command.chmod(0o755)


if __name__ == "__main__":
    from qa_fast.answer import bulk
    from qa_fast.cli.app import run
    from qa_fast.train import sizing

    bulk.PART_BYTES = int(os.environ.get("PART_BYTES", bulk.PART_BYTES))  # a test of several parts needs small ones
    sizing.CHOICES = (sizing.Choice(float("inf"), 1, 1e-4),)
    run()
