"""`qa-fast evaluate`: exact match and F1 of a model on a split of shards."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qa_fast.cli.bar import with_bar
from qa_fast.cli.extras import needs, say
from qa_fast.cli.records import ModelName, ShardsName, with_records
from qa_fast.errors import UserError, without_secrets
from qa_fast.options import option
from qa_fast.scoring.options import EvaluateConfig

if TYPE_CHECKING:
    from qa_fast.report.analysis import Against
    from qa_fast.report.compare import Other
    from qa_fast.scoring.result import EvaluationResult
    from qa_fast.shards import Shards


_output = partial(option, group="Output")


@dataclass(frozen=True)
class OutputOptions:
    """What `qa-fast evaluate` writes besides the scores; see `qa_fast.options`."""

    out: Path | None = _output(  # noqa: RUF009
        None,
        "Folder for predictions.json, nbest_predictions.json, na_prob.json, metrics.json; with --require-all also "
        "evidence.json.",
    )
    report: Path | None = _output(  # noqa: RUF009
        None, "HTML file to write a report to: scores by kinds of questions, confidence and mistakes."
    )
    compare: str | None = _output(
        None,
        "Second model to compare with on the same questions: a model with the same tokenizer, or the folder that "
        "'evaluate --out' wrote for any model.",
    )
    card: bool = _output(False, "Also write the scores into the model's card (README.md in the model's folder).")
    keep: bool = _output(
        False,
        "Also write the options that were scored into the model's folder, so that all ways of answering use them: "
        "windows, longest answer, and whether 'no answer' may be given. Its threshold is --null-threshold, or the one "
        "that is best for this split.",
    )


@with_records
def evaluate(
    shards: ShardsName,
    model: ModelName,
    *,
    split: Annotated[
        str, typer.Option("--split", help="Split to score; any except train.", rich_help_panel="Scoring")
    ] = "validation",
    output: OutputOptions,
    config: EvaluateConfig,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the metrics and the figures of --report and --compare as JSON.")
    ] = False,
) -> None:
    """Score a model with the official SQuAD metrics.

    --report explains the score, and --compare compares it with another model's. Answers in scripts without
    spaces are also compared by their characters (--metric). The model's folder stays as it is without --keep and
    --card.
    """
    out, report, compare, is_silent = output.out, output.report, output.compare, quiet or as_json
    with needs("answer", "qa-fast evaluate"):
        from qa_fast.report.analysis import QuestionScores, set_against
        from qa_fast.report.compare import Other
        from qa_fast.report.page import check_report, write_report
        from qa_fast.scoring.evaluation import evaluate as run
        from qa_fast.scoring.predictions import METRICS, check_predictions
        from qa_fast.shards import open_shards
        from qa_fast.store import local_path, write_json

        def score(name: str, folder: Path | None = None, keep: bool = False) -> EvaluationResult:
            work = partial(run, shards, name, split, folder, config, keep=keep, say=None if is_silent else say)
            scored: EvaluationResult = with_bar(work, split, quiet=is_silent)
            return scored

        reads = [shards, model, *([] if compare is None else [compare])]
        if report is not None:
            check_report(report, reads=reads, overwrite=config.overwrite)
        if out is not None:
            check_predictions(out, reads=reads, overwrite=config.overwrite)
        if output.card:
            _check_card(model)
        opened = open_shards(shards)
        other = None if compare is None else _read_other(compare, opened, split, config)
        result = score(model, out, output.keep)
        if compare is not None and other is None:
            second = score(compare)
            other = Other(
                without_secrets(compare), second.predictions, f"scored with {second.engine} in {second.precision}"
            )
        figures: dict[str, Any] = {}
        against: Against | None = None
        if report is not None:
            about = _about(opened, model, split, result, config)
            analysis = write_report(
                report,
                result,
                other,
                name=without_secrets(model),
                about=about,
                seed=config.seed,
                overwrite=config.overwrite,
            )
            figures, against = analysis.to_dict(), analysis.against
        elif other is not None:
            against = set_against(QuestionScores.of(result), other, seed=config.seed)
            figures = {"comparison": against.to_dict(result.ids)}
        if out is not None:
            write_json(local_path(str(out)) / METRICS, result.metrics, replace=config.overwrite)
        written = _add_to_card(opened, model, split, result, config) if output.card else None
    if as_json:
        intervals = _intervals(result, config.seed)
        typer.echo(json.dumps({**result.metrics, **({"intervals": intervals} if intervals else {}), **figures}))
    elif not quiet:
        _print(result, against, config.seed)
        if report is not None:
            typer.echo(f"{report}: the report")
        if written is not None:
            typer.echo(f"{written}: the model card, with these scores")
        if out is not None:
            evidence = "" if result.evidence is None else "evidence.json, "
            typer.echo(f"{out}: predictions.json, nbest_predictions.json, na_prob.json, {evidence}metrics.json")


def _read_other(name: str, shards: Shards, split: str, config: EvaluateConfig) -> Other | None:
    """Read the other model's answers before time is spent on scoring; None if it is a model that must be scored."""
    from qa_fast.report.other import read_other
    from qa_fast.scoring.evaluation import sampled_rows, scorable

    examples = scorable(shards, split).examples
    assert examples is not None
    rows = sampled_rows(len(examples), config.max_examples, config.seed)
    return read_other(name, shards, examples["id"].take(rows).to_pylist())


def _about(
    shards: Shards, model: str, split: str, result: EvaluationResult, config: EvaluateConfig
) -> dict[str, str | int]:
    """Return facts about the evaluation for the report."""
    manifest, features = shards.manifest, shards.manifest["config"]
    examples = manifest["splits"][split]["examples"]
    sample = f" of {examples:,}, sampled with seed {config.seed}" if len(result.ids) < examples else ""
    threshold = f"predicted if it leads by more than {result.null_threshold:g} logits"
    return {
        "Model": without_secrets(model),
        "Data": f"{Path(manifest['source']['name']).name}, {split}",
        "Questions": f"{len(result.ids):,}{sample}",
        "Windows": f"{result.features:,}, up to {features['max_length']} tokens each, overlap {features['doc_stride']}",
        "Engine": f"{result.engine} in {result.precision}",
        "Metric": result.metric,
        "Answers": f"up to {result.rules.max_answer_len} tokens, best of {config.n_best} candidates",
        "No answer": threshold if result.allow_no_answer else "never predicted",
        "Confidence": _calibration(shards, split, result),
    }


def _calibration(shards: Shards, split: str, result: EvaluationResult) -> str:
    """Say what the model's calibration was fitted on, and whether this is what is scored."""
    calibration = result.rules.calibration
    if calibration is None:
        return "not calibrated"
    same = (calibration.fingerprint, calibration.split) == (shards.manifest.get("fingerprint"), split)
    return calibration.origin + (", which are among these questions" if same else "")


def _check_card(model: str) -> None:
    """Refuse --card for a model that has no card of ours, before time is spent on scoring."""
    from qa_fast.hub.facts import METRICS, TRAINING, check_records

    if not (Path(model) / TRAINING / METRICS).is_file():
        raise UserError(
            f"--card needs a model folder that 'qa-fast train' wrote; {model} has no {TRAINING}/{METRICS}: leave out "
            "--card, or name such a folder"
        )
    check_records(Path(model))


def _add_to_card(shards: Shards, model: str, split: str, result: EvaluationResult, config: EvaluateConfig) -> Path:
    """Write the scores into the model's card; return the card."""
    from qa_fast.hub.card import write_card
    from qa_fast.hub.facts import record_evaluation

    record_evaluation(
        model,
        shards.manifest,
        split,
        exact_match=result.squad_exact_match,
        f1=result.squad_f1,
        questions=len(result.ids),
        precision=result.precision,
        seed=config.seed,
    )
    return write_card(model)


def _intervals(result: EvaluationResult, seed: int) -> dict[str, tuple[float, float]]:
    """Return the 95 % intervals in percent of the scores of few questions, by the names of the metrics."""
    from qa_fast.scoring.intervals import intervals_of_few
    from qa_fast.scoring.metrics import question_scores

    official = question_scores(result.predictions, result.golds.answers, no_answer=result.as_v2)
    rows = [("", "exact" if result.as_v2 else "exact_match", official)]
    if "chosen" in result.metrics:
        rows.append(("chosen.", "exact_match", result.scores_of(result.predictions)))
    found: dict[str, tuple[float, float]] = {}
    for prefix, exact_name, scores in rows:
        intervals = intervals_of_few(*scores, seed)
        if intervals is not None:
            found |= {prefix + exact_name: intervals[0], f"{prefix}f1": intervals[1]}
    return found


def _print(result: EvaluationResult, against: Against | None, seed: int) -> None:
    """Print the metrics, the speed and the comparison."""
    from qa_fast.scoring.metrics import metric_rows

    intervals = _intervals(result, seed)
    for name, value in metric_rows(result.metrics):
        low, high = intervals.get(name, (0, 0))
        typer.echo(f"{name:32} {value:>12}" + (f"  95 % {low:.1f} to {high:.1f}" if name in intervals else ""))
    rate = result.features / result.seconds if result.seconds else 0.0
    typer.echo(f"{result.features:,} features in {result.seconds:.1f} s ({rate:.1f} per second)")
    if against is None:
        return
    compared = against.comparison
    typer.echo(f"compared with {against.other.name} ({against.other.source}):")
    for name, difference in (("exact match", compared.exact_match), ("f1", compared.f1)):
        low, high = difference.interval
        typer.echo(
            f"{name:32} {difference.points:+12.4f}  95 % {low:+.2f} to {high:+.2f}, p = {difference.p_value:.4f}"
        )
    typer.echo(f"better on {compared.wins:,}, worse on {compared.losses:,}, equal on {compared.ties:,} questions (F1)")
