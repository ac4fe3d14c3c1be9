"""Runs the `qa-fast` command as `python -m qa_fast.cli`."""

from qa_fast.cli.app import run

run()
