"""`python -m qa_fast.cli`: the `qa-fast` command without its script."""

from qa_fast.cli.app import run

run()
