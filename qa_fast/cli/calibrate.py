"""`qa-fast calibrate`: fit scores that are the probability that an answer is right."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qa_fast.answer.options import EngineOptions
from qa_fast.cli.bar import with_bar
from qa_fast.cli.extras import needs, say
from qa_fast.cli.records import ModelName, ShardsName, with_records
from qa_fast.errors import UserError

if TYPE_CHECKING:
    from qa_fast.report.calibrate import Calibrated

_TITLES = ("expected calibration error", "AUROC", "Brier score", *(f"answered, {n} % wrong" for n in (1, 5, 10)))


@with_records
def calibrate(
    model: ModelName,
    shards: ShardsName,
    *,
    split: Annotated[str, typer.Option("--split", help="Split to use; any except train.")] = "validation",
    keep: Annotated[
        bool,
        typer.Option(
            "--keep",
            help="Write the calibration, and the threshold of no answer if there are questions without an answer, into "
            "the model's folder, with the options that they were fitted with. All ways of answering use them.",
        ),
    ] = False,
    max_examples: Annotated[
        int | None, typer.Option("--max-examples", min=1, help="Use a random sample of this many questions.")
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of the sample, of the two halves and of the resamples.")
    ] = 0,
    engine: EngineOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print the calibration and the figures as JSON.")] = False,
) -> None:
    """Turn a model's scores into probabilities of being right.

    Half of the documents fit the calibration, and the figures are those of the other half. The model's folder stays
    as it is without --keep.
    """
    with needs("answer", "qa-fast calibrate"):
        from qa_fast.report.calibrate import calibrate as run

        options: dict[str, Any] = {"keep": keep, "max_examples": max_examples, "seed": seed, **vars(engine)}
        options["say"] = None if as_json else say
        made = with_bar(partial(run, model, shards, split, **options), split, quiet=as_json)
        if keep:
            _write_card(model)
    if as_json:
        calibration = made.rules.calibration
        assert calibration is not None
        facts = {"calibration": calibration.to_json(), "questions": made.questions}
        facts |= {"null_threshold": made.rules.null_threshold} if made.chose_threshold else {}
        typer.echo(json.dumps(facts | {"before": made.before.to_dict(), "after": made.after.to_dict()}))
        return
    _print(made)


def _print(made: Calibrated) -> None:
    """Print the figures before and after with their intervals, and what was kept."""
    calibration = made.rules.calibration
    assert calibration is not None
    typer.echo(f"{calibration.origin} (one half of the documents); reported on {made.questions:,} of the other half")
    typer.echo(f"{'':28} {'before':28} after")
    for number, title in enumerate(_TITLES):
        cells = []
        for figures in (made.before, made.after):
            values = (figures.values[number], *figures.intervals[number])
            if math.isnan(values[0]):
                cells.append("undefined")  # the AUROC of answers that are all right or all wrong
                continue
            value, low, high = (f"{100 * value:.1f} %" if number > 2 else f"{value:.4f}" for value in values)
            cells.append(f"{value} ({low} to {high})")
        typer.echo(f"{title:28} {cells[0]:28} {cells[1]}")
    if made.chose_threshold:
        for name in made.after.scores:
            typer.echo(f"{name:28} {made.before.scores[name]:<28.2f} {made.after.scores[name]:.2f}")
        typer.echo(f"'no answer' is given if it leads by more than {made.rules.null_threshold:.4f} logits")
    if made.path is None:
        say("nothing was written: --keep writes the calibration into the model's folder")
    else:
        say(f"{made.path}: the calibration that was fitted on the first half")


def _write_card(model: str) -> None:
    """Write the card of a trained model again, which names the calibration; a card of somebody else stays."""
    from qa_fast.hub.card import write_card
    from qa_fast.hub.facts import METRICS, TRAINING
    from qa_fast.store import local_path

    if not (local_path(model) / TRAINING / METRICS).is_file():
        return
    try:
        write_card(local_path(model))
    except UserError as error:
        say(f"the model card stays as it is: {error}")
