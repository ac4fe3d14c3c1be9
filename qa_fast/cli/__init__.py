"""The command line: one module for each command, which passes its options to the library."""

from qa_fast.cli.app import app, main

__all__ = ["app", "main"]
