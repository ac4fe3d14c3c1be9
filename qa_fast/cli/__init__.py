"""The command line: one module for each command, which passes its options to the library."""

from qa_fast.cli.app import main

__all__ = ["main"]
