"""The report as a page: scores, groups, confidence, mistakes in their documents, and a comparison."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from qa_fast.errors import UserError
from qa_fast.html.elements import card, details, facts, grid, heading, paragraph
from qa_fast.html.markup import Html, joined
from qa_fast.html.page import check_page, page, save_page
from qa_fast.report.analysis import Analysis, analyse
from qa_fast.report.compare import Other
from qa_fast.report.sections import comparison, confidence, group_chart, interval_text, listed, mistakes, signed
from qa_fast.scoring.metrics import metric_rows
from qa_fast.scoring.result import EvaluationResult
from qa_fast.store import local_path


def check_report(path: Path, *, reads: Iterable[str | Path] = (), overwrite: bool = False) -> None:
    """Refuse a path that no report can be written to, before time is spent on scoring.

    Args:
        path: The file.
        reads: Files and folders that the run reads.
        overwrite: Replace a file that is no page of ours.

    Raises:
        UserError: The path is a folder, its folder does not exist, or a file there may not be replaced.
    """
    # Unlike `Path.is_dir`, `os.path.isdir` does not raise for a name that is too long.
    folder = path.absolute().parent
    if os.path.isdir(path) or not os.path.isdir(folder):
        problem = f"{path} is a folder" if os.path.isdir(path) else f"directory {folder} does not exist"
        raise UserError(f"--report must be a file in an existing folder; {problem}: choose another path")
    check_page(path, "--report", reads=reads, overwrite=overwrite)


def write_report(
    path: str | Path,
    result: EvaluationResult,
    other: Other | None = None,
    *,
    name: str = "the model",
    about: Mapping[str, str | int] | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Analysis:
    """Write a report of an evaluation to a self-contained HTML file, which appears whole or not at all.

    Args:
        path: The file.
        result: From `qa_fast.evaluate`.
        other: Another model's answers to the same questions, to compare with.
        name: Name of the model.
        about: Facts about the evaluation by name, shown as they are.
        seed: Seed of the bootstraps.
        overwrite: Replace a file that is no page of ours.

    Returns:
        The figures of the page.

    Raises:
        UserError: The file cannot be written, or may not be replaced.
        ValueError: The numbers of the other model's answers and of the questions differ.
    """
    path = local_path(str(path))
    check_report(path, overwrite=overwrite)
    analysis = analyse(result, other, seed=seed)
    save_page(path, report_page(analysis, name, about or {}), option="--report", overwrite=overwrite)
    return analysis


def report_page(analysis: Analysis, name: str, about: Mapping[str, str | int]) -> str:
    """Return the page.

    Args:
        analysis: The figures.
        name: Name of the model.
        about: Facts about the evaluation by name.
    """
    against = analysis.against
    parts = [
        _headline(analysis, about),
        comparison(analysis, against, name) if against is not None else None,
        heading("By kinds of questions"),
        paragraph(
            "F1 of each group, with the number of questions beside its name. The 95 % intervals are from the bootstrap "
            "(Efron 1979), and from Wilson (1927) for exact match and for fewer than 30 questions.",
            kind="quiet",
        ),
        grid(*(group_chart(grouping, groups) for grouping, groups in analysis.groups), kind="two"),
        heading("Confidence"),
        confidence(analysis),
        heading("Mistakes"),
        mistakes(analysis),
        listed(
            "Most confident errors",
            "Predictions that share neither characters nor a word with a gold answer",
            analysis,
            analysis.errors,
        ),
        listed(
            "Near misses",
            "Wrong predictions that share characters or a word with a gold answer",
            analysis,
            analysis.near,
        ),
    ]
    data = f"{about['Data']}: " if "Data" in about else ""
    return page(name, *parts, subtitle=f"{data}exact match and F1 of {len(analysis.result.ids):,} questions")


def _headline(analysis: Analysis, about: Mapping[str, str | int]) -> Html:
    overall = analysis.overall
    tiles = [
        _score_tile("Exact match", overall.exact_match, overall.exact_interval),
        _score_tile("F1", overall.f1, overall.f1_interval),
    ]
    for grouping, groups in analysis.groups:
        if grouping.key == "answerable":
            tiles += [_score_tile(f"F1, {group.name}", group.f1, group.f1_interval) for group in groups]
    if analysis.against is not None:
        difference = analysis.against.comparison.f1
        tiles.append(
            _tile("F1, difference from the other", signed(difference.points), interval_text(difference.interval))
        )
    official = details("Official metrics", facts(metric_rows(analysis.result.metrics)))
    return joined([grid(*tiles, kind="tiles"), card(facts(about), official)])


def _score_tile(name: str, score: float, interval: tuple[float, float]) -> Html:
    return _tile(name, f"{score:.2f}", f"{interval[0]:.1f} to {interval[1]:.1f}")


def _tile(name: str, value: str, interval: str) -> Html:
    return card(
        paragraph(name, kind="quiet"), paragraph(value, kind="score"), paragraph(f"95 %: {interval}", kind="quiet")
    )
