"""`qa-fast quantize`: check that a model keeps its score in int8, and write a recipe for it."""

from __future__ import annotations

import json
from functools import partial
from typing import Annotated, Any

import typer

from qa_fast.cli.bar import with_bar
from qa_fast.cli.extras import needs, say
from qa_fast.cli.records import ShardsName

# Repeated from qa_fast.scoring.quantize, which is slow to import; a test checks that they are equal.
_MOST_LOST = 0.5


def quantize(
    model: Annotated[str, typer.Argument(help="Model folder; the settings for int8 (the recipe) are written into it.")],
    shards: ShardsName,
    split: Annotated[str, typer.Option("--split", help="Split to score on; any except train.")] = "validation",
    max_loss: Annotated[
        float,
        typer.Option(
            "--max-loss",
            help="Largest loss of F1, in points, with which int8 is allowed; its 95 % interval must be below.",
        ),
    ] = _MOST_LOST,
    max_examples: Annotated[
        int | None, typer.Option("--max-examples", help="Score a random sample of this many examples.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the sample.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the recipe as JSON on standard output.")] = False,
) -> None:
    """Allow int8 for a model if it loses little F1."""
    with needs("answer", "qa-fast quantize"):
        from qa_fast.infer.choose import has_bfloat16
        from qa_fast.scoring.quantize import quantize as run

        options: dict[str, Any] = {"most_lost": max_loss, "max_examples": max_examples, "seed": seed}
        quantized = with_bar(partial(run, model, shards, split, say=say, **options), split, quiet=as_json)
    recipe = quantized.recipe
    if as_json:
        facts = {"loss": quantized.loss.points, "loss_interval": quantized.loss.interval}
        facts |= {"path": str(quantized.path), "questions_alike": quantized.questions_alike}
        typer.echo(json.dumps(recipe.facts() | facts))
        return
    if recipe.rounding.whole or "openvino" in recipe.engines or not has_bfloat16():
        use = "--precision auto takes it, unless --measure has found something faster"
    else:
        use = (
            "since it keeps products of blocks in float32, bfloat16 in OpenVINO is expected to be faster on this "
            "processor, and --precision auto takes that if OpenVINO is installed"
        )
    say(
        f"{quantized.path}: int8 in {recipe.engines[0]} loses {quantized.loss} on {recipe.examples:,} questions and "
        f"answers {100 * quantized.questions_alike:.1f}% of them alike; {use}"
    )
