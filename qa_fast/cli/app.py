"""The `qa-fast` command: its sub-commands, and how their errors reach the user."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import nullcontext
from typing import Annotated, NoReturn

import typer

from qa_fast.cli.answer import answer
from qa_fast.cli.evaluate import evaluate
from qa_fast.cli.export import export
from qa_fast.cli.featurize import featurize
from qa_fast.cli.models import models
from qa_fast.cli.push import push
from qa_fast.cli.quantize import quantize
from qa_fast.cli.records import GroupedCommand
from qa_fast.cli.serve import serve
from qa_fast.cli.show import show
from qa_fast.cli.startup import leave, without
from qa_fast.cli.sweep import sweep
from qa_fast.cli.train import train
from qa_fast.cli.warmup import warmup
from qa_fast.errors import UserError
from qa_fast.version import __version__

app = typer.Typer(
    name="qa-fast",
    help="Extractive question answering, from raw text to a served model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in (featurize, show, train, sweep, evaluate, quantize, answer, serve, push, export, models, warmup):
    app.command(cls=GroupedCommand)(_command)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"qa-fast {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; a user's mistake is one line on standard error and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except MemoryError as error:  # numpy's and Arrow's own, too
        reason = (str(error).strip() or "it ran out").splitlines()[0]
        print(f"error: there must be memory enough; {reason}: free some, or pass less at a time", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output, `head` say, has had enough
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"error: standard output must be one that can be written, with room; {error.strerror}", file=sys.stderr)
        sys.exit(2)


def run() -> NoReturn:
    """The process's entry: `main`, with a quick start and a quick end where nothing speaks against them."""
    short = sys.argv[1:2] in (["featurize"], ["show"], ["answer"])
    short = short and not {"ray", "--engine=ray"}.intersection(sys.argv[2:])  # which needs what is left out, and time
    if short:  # as fast as Arrow's own pool here, and 50 MB less at the peak
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    try:
        with without("pandas", "scipy.linalg") if short else nullcontext():
            main()
    except SystemExit as stop:
        if not short or not isinstance(stop.code, int | None):
            raise
        leave(stop.code or 0)
    sys.exit()
