"""The `qa-fast` command: its subcommands, and how their errors are reported."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer

from qa_fast import signals
from qa_fast.cli.environment import EnvironmentCommand
from qa_fast.cli.records import GroupedCommand
from qa_fast.cli.startup import is_short, leave, start_quickly
from qa_fast.errors import UserError
from qa_fast.version import __version__

_TO_A_MODEL = ("featurize", "show", "train", "sweep", "evaluate", "calibrate", "quantize")
_WITH_A_MODEL = ("answer", "serve", "push", "export", "models", "warmup")
COMMANDS = _TO_A_MODEL + _WITH_A_MODEL

# What systems and libraries say where memory runs out while they load a library or start a thread.
_NO_MEMORY = ("failed to map segment", "annot allocate memory", "can't start new thread")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"qa-fast {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def app_of(names: Sequence[str] = COMMANDS) -> typer.Typer:
    """Return the command line with the given commands; importing and declaring all of them takes 50 ms."""
    app = typer.Typer(
        name="qa-fast",
        help="Extractive question answering, from raw text to a served model.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_options)
    for name in names:
        command = getattr(import_module(f"qa_fast.cli.{name}"), name)
        app.command(cls=EnvironmentCommand if name == "serve" else GroupedCommand)(command)
    return app


def __getattr__(name: str) -> Any:  # `app`, the whole command line
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return app_of()


def main() -> None:
    """Run the command; a user's mistake is one line on standard error and exit code 2."""
    try:
        app_of([name for name in sys.argv[1:2] if name in COMMANDS] or COMMANDS)()
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
