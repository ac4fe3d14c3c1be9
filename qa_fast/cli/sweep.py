"""`qa-fast sweep`: short training runs with other options, ranked."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from qa_fast.cli.extras import needs, say


def sweep(
    shards: Annotated[
        list[str] | None, typer.Argument(help="As those of train: folders, 'shards' if left out, with weights or not.")
    ] = None,
    trials: Annotated[
        int, typer.Option("--trials", help="How many in all; those that the journal in --out has are not run again.")
    ] = 12,
    out: Annotated[Path, typer.Option("--out", help="Folder of the journal, trials.jsonl.")] = Path("sweep"),
    model: Annotated[str | None, typer.Option("--model", help="Model to start from, as that of train.")] = None,
    max_examples: Annotated[
        int, typer.Option("--max-examples", help="Budget of a trial: train on so many random examples; 0 is all.")
    ] = 4000,
    validation: Annotated[str, typer.Option("--validation", help="Split to score.")] = "validation",
    validation_examples: Annotated[
        int, typer.Option("--validation-examples", help="Score a random choice of so many examples; 0 is all.")
    ] = 1000,
    rates: Annotated[
        bool,
        typer.Option(
            "--rates", help="Instead of trials, 100 steps with a rising learning rate: where to begin looking."
        ),
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the trials' options and of each run.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but the table and errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the trials as JSON, best first.")] = False,
) -> None:
    """Look for better options of train by a random search, and print a table and the command for the best.

    Searched: learning rate 1e-5 to 3e-4 (log-uniform), batch size 8, 16 or 32, 1 to 3 epochs, warmup 0 to 0.2, dropout
    0, 0.05, 0.1 or 0.2. Trial 0 is train's own recipe. A sweep that was stopped goes on with the same command. What is
    best on a small budget need not be best on all data.
    """
    with needs("train", "qa-fast sweep"):
        from qa_fast.train.sweep import SweepConfig, command, table
        from qa_fast.train.sweep import sweep as run
    if rates:
        _rates(shards or ["shards"], model, max_examples or None, seed, quiet or as_json, as_json)
        return
    config = SweepConfig(
        shards=tuple(shards or ["shards"]),
        trials=trials,
        out=str(out),
        model=model,
        max_examples=max_examples or None,
        validation=validation,
        validation_examples=validation_examples or None,
        seed=seed,
    )
    ranked = run(config, (lambda line: None) if quiet or as_json else say)
    best = command(config, ranked[0])
    if as_json:
        typer.echo(json.dumps({"trials": [asdict(trial) for trial in ranked], "command": best}))
        return
    for line in table(ranked):
        typer.echo(line)
    typer.echo(f"\nthe best on all data:\n{best}")


def _rates(
    shards: list[str], model: str | None, max_examples: int | None, seed: int, quiet: bool, as_json: bool
) -> None:
    with needs("train", "qa-fast sweep"):
        from qa_fast.train.config import TrainConfig
        from qa_fast.train.rates import drawn, rate_test

        config = TrainConfig(model=model, max_examples=max_examples, seed=seed)
        found = rate_test(shards, config, (lambda line: None) if quiet else say)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    typer.echo("    rate      loss")
    for line in drawn(found):
        typer.echo(line)
    typer.echo(f"\nbegin with --learning-rate {found.suggested:g}: a tenth of the rate at the lowest loss")
