"""`qa-fast train`: fine-tunes a model on shards and writes a model folder."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from qa_fast import signals
from qa_fast.cli.extras import needs
from qa_fast.cli.records import with_records
from qa_fast.cli.startup import leave
from qa_fast.errors import UserError
from qa_fast.train.config import JobConfig, TrainConfig


@with_records
def train(
    shards: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders or URLs of shards that 'qa-fast featurize' made; default: shards. Several are trained on "
            "together. A weight may follow the name: an epoch goes twice over FOLDER:2, and over half of FOLDER:0.5 "
            "(the next epoch over the other half)."
        ),
    ] = None,
    *,
    config: TrainConfig,
    job: JobConfig,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON on standard output.")] = False,
) -> None:
    """Fine-tune a model on shards.

    The folder that it writes opens in transformers.
    """
    folders = shards or ["shards"]
    with needs("train", "qa-fast train"), _leaving_a_failed_job():
        from qa_fast.train.early import check_run

        if not job.requested:
            check_run(folders, config)
        from qa_fast.train import ProgressLine
        from qa_fast.train import train as run

        if quiet or as_json or job.process_id:
            result = run(folders, config, job=job)
        else:
            with ProgressLine() as line:
                result = run(folders, config, line, job)
    if result.metrics["process_id"]:
        return
    if as_json:
        typer.echo(json.dumps(result.metrics))
    elif not quiet:
        scores = f", {result.best.scores_in_words()}" if result.best else ""
        typer.echo(f"{result.out}: {result.steps} steps, loss {result.loss:.3f}{scores}")


@contextmanager
def _leaving_a_failed_job() -> Iterator[None]:
    """End the process at once if it fails while it is part of a job.

    JAX would wait for the other processes when Python exits, and they wait for this one.
    """
    try:
        yield
    except BaseException as error:
        jax = sys.modules.get("jax")
        if jax is None or not jax.distributed.is_initialized():
            raise
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
            leave(2)
        if isinstance(error, KeyboardInterrupt | signals.Stopped):
            signals.finish()
        traceback.print_exc()
        leave(1)
