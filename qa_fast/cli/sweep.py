"""`qa-fast sweep`: short training runs with other options, ranked."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from qa_fast.cli.extras import needs, say
from qa_fast.cli.records import with_records
from qa_fast.progress import Log
from qa_fast.train.config import SweepConfig


@with_records
def sweep(
    shards: Annotated[
        list[str] | None,
        typer.Argument(help="Folders of shards, with or without weights, as train takes them; default: shards."),
    ] = None,
    *,
    config: SweepConfig,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but the table and errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the trials as JSON, best first.")] = False,
) -> None:
    """Search for better options of train with Optuna.

    Prints a table of the trials and the command for the best one.

    Searched: learning rate 1e-5 to 3e-4 (log-uniform), batch size 8, 16 or 32, 1 to 3 epochs, warmup 0 to 0.2, dropout
    0, 0.05, 0.1, 0.2 or the model's own. Trial 0 has train's default recipe. The same command continues a sweep that
    was stopped. The best options for a small budget need not be the best for all data.
    """
    folders = shards or ["shards"]
    with needs("sweep", "qa-fast sweep"):
        from qa_fast.train.early import check_sweep

        check_sweep(folders, config)
        from qa_fast.train.sweep import command, table
        from qa_fast.train.sweep import sweep as run
    if quiet or as_json:
        ranked = run(folders, config, lambda line: None)
    else:
        with Log(say) as log:

            def tell(line: str) -> None:
                say(line)
                if not sys.stderr.isatty():
                    log.note(line)

            ranked = run(folders, config, tell)
    best = command(folders, config, ranked[0])
    if as_json:
        typer.echo(json.dumps({"trials": [asdict(trial) for trial in ranked], "command": best}))
        return
    for line in table(ranked):
        typer.echo(line)
    typer.echo(f"\nto train on all data with the best options:\n{best}")
