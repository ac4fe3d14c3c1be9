"""The command line: a thin skin, one module a command, options mapped one to one to the library's."""

from qa_fast.cli.app import app, main

__all__ = ["app", "main"]
