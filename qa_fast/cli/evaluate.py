"""`qa-fast evaluate`: a model's exact match and F1 on a split of shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from qa_fast.cli.bar import with_bar
from qa_fast.cli.extras import needs, say


def evaluate(
    shards: Annotated[Path, typer.Argument(help="Folder that 'qa-fast featurize' made with the model's tokenizer.")],
    model: Annotated[str, typer.Argument(help="Model folder, Hub id or 'minilm'.")],
    split: Annotated[str, typer.Option("--split", help="Split to score; any but train.")] = "validation",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for predictions.json, nbest_predictions.json, na_prob.json, metrics.json."),
    ] = None,
    n_best: Annotated[int, typer.Option("--n-best", help="Candidates kept for each question.")] = 20,
    max_answer_length: Annotated[int, typer.Option("--max-answer-length", help="Longest answer, in tokens.")] = 30,
    null_threshold: Annotated[
        float,
        typer.Option("--null-threshold", help="No answer is predicted where it leads by more than this, in logits."),
    ] = 0.0,
    max_examples: Annotated[
        int | None, typer.Option("--max-examples", help="Score a random choice of so many examples.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of that choice.")] = 0,
    precision: Annotated[
        str, typer.Option("--precision", help="auto (measured on this device), float32, bfloat16, float16 or int8.")
    ] = "auto",
    engine: Annotated[
        str, typer.Option("--engine", help="auto (measured on this device), keras, openvino or onnx.")
    ] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON on standard output.")] = False,
) -> None:
    """Score a model with the official SQuAD metrics."""
    with needs("answer", "qa-fast evaluate"):
        from qa_fast.hub.card import write_card
        from qa_fast.hub.facts import record_evaluation
        from qa_fast.scoring import evaluate as run
        from qa_fast.shards import open_shards, write_json

        options: dict[str, Any] = {
            "n_best": n_best,
            "max_answer_length": max_answer_length,
            "null_threshold": null_threshold,
            "max_examples": max_examples,
            "seed": seed,
            "precision": precision,
            "engine": engine,
        }
        if quiet or as_json:
            result = run(shards, model, split, out, **options)
        else:
            result = with_bar(lambda progress: run(shards, model, split, out, progress=progress, say=say, **options))
    if out is not None:
        write_json(out / "metrics.json", result.metrics)
    carded = (Path(model) / "training" / "metrics.json").is_file()
    if carded:
        record_evaluation(
            model,
            open_shards(shards).manifest,
            split,
            exact_match=result.exact_match,
            f1=result.f1,
            questions=len(result.ids),
            precision=precision,
            seed=seed,
        )
        write_card(model)
    if as_json:
        typer.echo(json.dumps(result.metrics))
        return
    if quiet:
        return
    for name, value in _flat(result.metrics):
        shown = f"{value:.4f}" if isinstance(value, float) else f"{value}"
        typer.echo(f"{name:32} {shown:>12}")
    rate = result.features / result.seconds if result.seconds else 0.0
    typer.echo(f"{result.features:,} features in {result.seconds:.1f} s ({rate:.1f} a second)")
    if carded:
        typer.echo(f"{Path(model) / 'README.md'}: the card tells these scores now")
    if out is not None:
        typer.echo(f"{out}: predictions.json, nbest_predictions.json, na_prob.json, metrics.json")


def _flat(metrics: dict[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Nested metrics as (name, value), names joined by a dot."""
    rows: list[tuple[str, Any]] = []
    for name, value in metrics.items():
        rows += _flat(value, f"{before}{name}.") if isinstance(value, dict) else [(before + name, value)]
    return rows
