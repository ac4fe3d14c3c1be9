"""`qa-fast train`: shards to a model folder."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from qa_fast.cli.extras import needs
from qa_fast.cli.startup import leave
from qa_fast.errors import UserError


def train(
    shards: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folder (or URL) that 'qa-fast featurize' made, 'shards' if left out; several are trained on "
            "together. FOLDER:2 goes over it twice an epoch, FOLDER:0.5 over half, and the other half in the next."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Model to start from; the one whose tokenizer made the shards if left out."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the trained model.")] = Path("model"),
    epochs: Annotated[int, typer.Option("--epochs", help="Times over the data.")] = 2,
    max_steps: Annotated[int | None, typer.Option("--max-steps", help="Stop after so many optimisation steps.")] = None,
    max_examples: Annotated[
        int | None, typer.Option("--max-examples", help="Train on a random choice of so many examples.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Features a batch.")] = 16,
    accumulate: Annotated[int, typer.Option("--accumulate", help="Batches an optimisation step.")] = 1,
    steps_per_execution: Annotated[
        int,
        typer.Option(
            "--steps-per-execution", help="Steps that are given to the device in one call (KERAS_BACKEND=jax)."
        ),
    ] = 1,
    optimizer: Annotated[str, typer.Option("--optimizer", help="adamw or adam.")] = "adamw",
    schedule: Annotated[
        str, typer.Option("--schedule", help="linear (warmup, then down to 0) or constant.")
    ] = "linear",
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Highest learning rate.")] = 5e-5,
    warmup: Annotated[float, typer.Option("--warmup", help="Share of the steps over which the rate rises.")] = 0.1,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="AdamW's, on matrices alone.")] = 0.01,
    clip_norm: Annotated[float, typer.Option("--clip-norm", help="Largest gradient norm; 0 for none.")] = 1.0,
    dropout: Annotated[float | None, typer.Option("--dropout", help="Rate, instead of the model's own.")] = None,
    batching: Annotated[
        str, typer.Option("--batching", help="grouped (by length) or fixed (all as long as the longest).")
    ] = "grouped",
    precision: Annotated[
        str, typer.Option("--precision", help="auto (measured on this device), float32, bfloat16 or float16.")
    ] = "auto",
    jit: Annotated[str, typer.Option("--jit", help="auto (measured on GPUs), on, parts or off.")] = "auto",
    attention: Annotated[
        str,
        typer.Option(
            "--attention",
            help="exact; cudnn (JAX on a CUDA device in half precision: faster, but without dropout in attention); or "
            "auto: cudnn where no dropout is lost by it.",
        ),
    ] = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Of data order, dropout and fresh weights.")] = 0,
    checkpoint_every: Annotated[
        int, typer.Option("--checkpoint-every", help="Steps between checkpoints; 0 writes one at an interruption only.")
    ] = 500,
    validation: Annotated[
        str, typer.Option("--validation", help="Split to score after each epoch, of the first folder; '' for none.")
    ] = "validation",
    validation_examples: Annotated[
        int | None, typer.Option("--validation-examples", help="Score a random choice of so many examples.")
    ] = None,
    validate_every: Annotated[
        int | None, typer.Option("--validate-every", help="Score every so many steps, too; the best is saved.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option("--patience", help="Stop after so many scores in a row without a better F1.")
    ] = None,
    init_head: Annotated[
        str | None, typer.Option("--init-head", help="Fine-tuned model whose question answering head to start from.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher", help="Fine-tuned model to learn from beside the labels; its logits are kept in SHARDS."
        ),
    ] = None,
    teacher_weight: Annotated[
        float, typer.Option("--teacher-weight", help="Share of the loss that is the teacher's; labels have the rest.")
    ] = 0.5,
    temperature: Annotated[
        float, typer.Option("--temperature", help="Softens the teacher's and the student's probabilities.")
    ] = 2.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in --out.")] = False,
    processes: Annotated[
        int | None,
        typer.Option("--processes", help="Processes that train together, on one machine or many (KERAS_BACKEND=jax)."),
    ] = None,
    process_id: Annotated[
        int | None, typer.Option("--process-id", help="Which of them this is, from 0; 0 alone writes and prints.")
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(
            "--coordinator",
            help="HOST:PORT at which process 0 listens (or JAX_COORDINATOR_ADDRESS), or auto: Slurm, Open MPI, "
            "Kubernetes or a TPU pod tell JAX all three.",
        ),
    ] = None,
    join_timeout: Annotated[
        int, typer.Option("--join-timeout", help="Seconds to wait for all of them to start.")
    ] = 300,
    heartbeat_timeout: Annotated[
        int,
        typer.Option("--heartbeat-timeout", help="Seconds without a sign of life of one, after which JAX ends all."),
    ] = 100,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON on standard output.")] = False,
) -> None:
    """Fine-tune a checkpoint on shards; writes a folder that transformers opens."""
    with needs("train", "qa-fast train"):
        from qa_fast.train import JobConfig, ProgressLine, TrainConfig
        from qa_fast.train import train as run
    config = TrainConfig(
        model=model,
        out=str(out),
        epochs=epochs,
        max_steps=max_steps,
        max_examples=max_examples,
        batch_size=batch_size,
        accumulate=accumulate,
        steps_per_execution=steps_per_execution,
        optimizer=optimizer,
        schedule=schedule,
        learning_rate=learning_rate,
        warmup=warmup,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        dropout=dropout,
        batching=batching,
        precision=precision,
        jit=jit,
        attention=attention,
        seed=seed,
        checkpoint_every=checkpoint_every,
        validation=validation,
        validation_examples=validation_examples,
        validate_every=validate_every,
        patience=patience,
        init_head=init_head,
        teacher=teacher,
        teacher_weight=teacher_weight,
        temperature=temperature,
        resume=resume,
        overwrite=overwrite,
    )
    job = JobConfig(
        processes=processes,
        process_id=process_id,
        coordinator=coordinator,
        join_timeout=join_timeout,
        heartbeat_timeout=heartbeat_timeout,
    )
    named = shards or ["shards"]
    with needs("train", "qa-fast train"), _not_waiting_for_others():
        if quiet or as_json or process_id:
            result = run(named, config, job=job)
        else:
            with ProgressLine() as line:
                result = run(named, config, line, job)
    if result.metrics["process_id"]:
        return
    if as_json:
        typer.echo(json.dumps(result.metrics))
    elif not quiet:
        scored = f", EM {result.best.exact_match:.2f}, F1 {result.best.f1:.2f}" if result.best else ""
        typer.echo(f"{result.out}: {result.steps} steps, loss {result.loss:.3f}{scored}")


@contextmanager
def _not_waiting_for_others() -> Iterator[None]:
    """End at once where this process fails and the others of its job do not.

    What JAX does at the end of Python would wait for them, and they wait for this process.
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
        if isinstance(error, KeyboardInterrupt):
            print("stopped", file=sys.stderr)
            leave(130)
        traceback.print_exc()
        leave(1)
