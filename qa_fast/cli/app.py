"""The `qa-fast` command: its subcommands, and how their errors are reported."""

from __future__ import annotations

import errno
import sys
from typing import Annotated, NoReturn

import typer

from qa_fast import signals
from qa_fast.cli.answer import answer
from qa_fast.cli.calibrate import calibrate
from qa_fast.cli.environment import EnvironmentCommand
from qa_fast.cli.evaluate import evaluate
from qa_fast.cli.export import export
from qa_fast.cli.featurize import featurize
from qa_fast.cli.models import models
from qa_fast.cli.push import push
from qa_fast.cli.quantize import quantize
from qa_fast.cli.records import GroupedCommand
from qa_fast.cli.serve import serve
from qa_fast.cli.show import show
from qa_fast.cli.startup import is_short, leave, start_quickly
from qa_fast.cli.sweep import sweep
from qa_fast.cli.train import train
from qa_fast.cli.warmup import warmup
from qa_fast.errors import UserError
from qa_fast.version import __version__

# What systems and libraries say where memory runs out while they load a library or start a thread.
_NO_MEMORY = ("failed to map segment", "annot allocate memory", "can't start new thread")

app = typer.Typer(
    name="qa-fast",
    help="Extractive question answering, from raw text to a served model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_TO_A_MODEL = (featurize, show, train, sweep, evaluate, calibrate, quantize)
_WITH_A_MODEL = (answer, serve, push, export, models, warmup)
for _command in _TO_A_MODEL + _WITH_A_MODEL:
    app.command(cls=EnvironmentCommand if _command is serve else GroupedCommand)(_command)


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
    except (KeyboardInterrupt, signals.Stopped):
        signals.tell()
        sys.exit(signals.exit_code())
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        sys.stderr.close()
        sys.exit(141)
    except (MemoryError, ImportError, RuntimeError, OSError) as error:  # numpy and Arrow have a MemoryError of theirs
        reason = (str(error).strip() or "it ran out").splitlines()[0]
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = error.filename or "files and standard output"
            problem = f"{what} must be writable, with free space; {error.strerror}: free some space"
        elif isinstance(error, MemoryError) or any(text in reason for text in _NO_MEMORY):
            problem = f"there must be enough memory; {reason}: free some, or process less at a time"
        else:
            raise
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)


def run() -> NoReturn:
    """Run `main` as a process of its own, in which short commands start and end quickly."""
    signals.hold()
    short = is_short(sys.argv[1:])
    if short:
        start_quickly()
    try:
        main()
    except SystemExit as stop:
        signals.leave()
        if not isinstance(stop.code, int | None):
            raise
        leave(stop.code or 0, exit_functions=not short)
    except signals.Stopped:  # between the end of the command and here
        signals.finish()
    sys.exit()
