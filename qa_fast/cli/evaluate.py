"""`qa-fast evaluate`: a model's exact match and F1 on a split of shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qa_fast.cli.bar import with_bar
from qa_fast.cli.extras import needs, say

if TYPE_CHECKING:
    from qa_fast.report.analysis import Against
    from qa_fast.scoring.result import EvaluationResult


def evaluate(
    shards: Annotated[
        str, typer.Argument(help="Folder (or URL) that 'qa-fast featurize' made with the model's tokenizer.")
    ],
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
    seed: Annotated[
        int, typer.Option("--seed", help="Of that choice, and of the resamples of --report and --compare.")
    ] = 0,
    precision: Annotated[
        str, typer.Option("--precision", help="auto (measured on this device), float32, bfloat16, float16 or int8.")
    ] = "auto",
    engine: Annotated[
        str, typer.Option("--engine", help="auto (measured on this device), keras, openvino or onnx.")
    ] = "auto",
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", help="HTML file: scores by kinds of questions, errors in their documents, confidence."
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            help="Second model on the same questions: a model with the same tokenizer, or the folder that 'evaluate "
            "--out' wrote for any model.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the metrics as JSON, with the figures of --report and --compare.")
    ] = False,
) -> None:
    """Score a model with the official SQuAD metrics; look into the score, or set it beside another model's."""
    with needs("answer", "qa-fast evaluate"):
        from qa_fast.hub.card import write_card
        from qa_fast.hub.facts import record_evaluation
        from qa_fast.report.analysis import comparison_dict, set_against
        from qa_fast.report.other import open_other
        from qa_fast.report.page import check_report, write_report
        from qa_fast.scoring.evaluation import choice_of, scorable
        from qa_fast.scoring.evaluation import evaluate as run
        from qa_fast.scoring.metrics import metric_rows
        from qa_fast.shards import open_shards
        from qa_fast.store import write_json

        options: dict[str, Any] = {
            "n_best": n_best,
            "max_answer_length": max_answer_length,
            "null_threshold": null_threshold,
            "max_examples": max_examples,
            "seed": seed,
            "precision": precision,
            "engine": engine,
        }

        def scored(name: str, folder: Path | None = None) -> EvaluationResult:
            if quiet or as_json:
                return run(shards, name, split, folder, **options)
            return with_bar(lambda progress: run(shards, name, split, folder, progress=progress, say=say, **options))

        # What scoring would be wasted on comes before it.
        if report is not None:
            check_report(report)
        manifest, other = open_shards(shards).manifest, None
        if compare is not None:
            opened = open_shards(shards)
            examples = scorable(opened, split).examples
            assert examples is not None
            rows = choice_of(len(examples), max_examples, seed)
            other = open_other(compare, opened, examples["id"].take(rows).to_pylist())
        result = scored(model, out)
        answers = None if other is None else other.answers(result.ids, scored)
        figures: dict[str, Any] = {}
        against: Against | None = None
        if report is not None:
            about = _about(manifest, model, split, result, options)
            analysis = write_report(report, result, answers, name=model, about=about, seed=seed)
            figures, against = analysis.to_dict(), analysis.against
        elif answers is not None:
            against = set_against(result, answers, seed=seed)
            figures = {"comparison": comparison_dict(result, against)}
    if out is not None:
        write_json(out.expanduser() / "metrics.json", result.metrics)
    carded = (Path(model) / "training" / "metrics.json").is_file()
    if carded:
        record_evaluation(
            model,
            manifest,
            split,
            exact_match=result.exact_match,
            f1=result.f1,
            questions=len(result.ids),
            precision=precision,
            seed=seed,
        )
        write_card(model)
    if as_json:
        typer.echo(json.dumps({**result.metrics, **figures}))
        return
    if quiet:
        return
    for name, shown in metric_rows(result.metrics):
        typer.echo(f"{name:32} {shown:>12}")
    rate = result.features / result.seconds if result.seconds else 0.0
    typer.echo(f"{result.features:,} features in {result.seconds:.1f} s ({rate:.1f} a second)")
    if against is not None:
        _tell(against)
    if report is not None:
        typer.echo(f"{report}: the report")
    if carded:
        typer.echo(f"{Path(model) / 'README.md'}: the card tells these scores now")
    if out is not None:
        typer.echo(f"{out}: predictions.json, nbest_predictions.json, na_prob.json, metrics.json")


def _about(
    manifest: dict[str, Any], model: str, split: str, result: EvaluationResult, options: dict[str, Any]
) -> dict[str, str | int]:
    """What was scored and how, for the report."""
    number = manifest["splits"][split]["examples"]
    chosen = f" of {number:,}, chosen with seed {options['seed']}" if len(result.ids) < number else ""
    features = manifest["config"]
    return {
        "Model": model,
        "Data": f"{Path(manifest['source']['name']).name}, {split}",
        "Questions": f"{len(result.ids):,}{chosen}",
        "Windows": f"{result.features:,} of up to {features['max_length']} tokens, {features['doc_stride']} shared",
        "Read with": f"{result.engine} in {result.precision}",
        "Answers": f"of up to {options['max_answer_length']} tokens, the best of {options['n_best']} candidates",
        "No answer": f"where it leads by more than {options['null_threshold']:g}"
        if result.allow_no_answer
        else "never predicted",
    }


def _tell(against: Against) -> None:
    """A comparison in three lines."""
    found = against.comparison
    typer.echo(f"against {against.other.name} ({against.other.source}):")
    for name, difference in (("exact match", found.exact_match), ("f1", found.f1)):
        low, high = difference.interval
        typer.echo(
            f"{name:32} {difference.points:+12.4f}  95 % {low:+.2f} to {high:+.2f}, p = {difference.p_value:.4f}"
        )
    typer.echo(f"better on {found.wins:,}, worse on {found.losses:,}, equal on {found.ties:,} questions (by F1)")
