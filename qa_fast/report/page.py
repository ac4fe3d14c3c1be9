"""The report as a page: scores, by groups, what confidence is worth, mistakes in their documents, a comparison."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from qa_fast.errors import UserError
from qa_fast.html.elements import card, details, facts, grid, heading, paragraph
from qa_fast.html.markup import Html, joined
from qa_fast.html.page import page, save_page
from qa_fast.report.analysis import MOST_SHOWN, Analysis, Other, analyse
from qa_fast.report.sections import compared, confidence, group_chart, listed, mistakes, signed, span
from qa_fast.scoring.metrics import metric_rows
from qa_fast.scoring.result import EvaluationResult


def check_report(path: Path) -> None:
    """Refuse a path that no report can be written to, before time is spent on scoring.

    Raises:
        UserError: It is a folder, or its folder is not there.
    """
    # Not `Path.is_dir`, which raises for a name that is too long.
    if os.path.isdir(path) or not os.path.isdir(path.absolute().parent):
        state = "is a folder" if os.path.isdir(path) else f"lies in {path.absolute().parent}, which is no folder"
        raise UserError(f"--report must be a file in a folder that is there; {path} {state}: choose another")


def write_report(
    path: str | Path,
    result: EvaluationResult,
    other: Other | None = None,
    *,
    name: str = "the model",
    about: Mapping[str, str | int] | None = None,
    most: int = MOST_SHOWN,
    seed: int = 0,
) -> Analysis:
    """Write a report of an evaluation to an HTML file that needs no other; it appears whole or not at all.

    Args:
        path: The file.
        result: What `scoring.evaluate` gave.
        other: Another model's answers to the same questions, to compare with.
        name: Of the model.
        about: What was scored and how, by name; shown as it is.
        most: Questions shown of each kind.
        seed: Of the bootstraps.

    Returns:
        What the page tells; `to_dict` has its figures.

    Raises:
        UserError: The file cannot be written.
        ValueError: The other's answers are not as many as the questions.
    """
    path = Path(path).expanduser()
    check_report(path)
    analysis = analyse(result, other, most=most, seed=seed)
    save_page(path, report_page(analysis, name, about or {}), option="--report")
    return analysis


def report_page(analysis: Analysis, name: str, about: Mapping[str, str | int]) -> str:
    """The page.

    Args:
        analysis: What it tells.
        name: Of the model.
        about: What was scored and how.
    """
    against = analysis.against
    parts = [
        _headline(analysis, about),
        compared(analysis, against, name) if against is not None else None,
        heading("By kinds of questions"),
        paragraph(
            "F1, with the number of questions beside each name. Intervals are of 95 %, the bootstrap's (Efron 1979) or "
            "Wilson's (1927) for exact match and below 30 questions.",
            kind="quiet",
        ),
        grid(*(group_chart(grouping, groups) for grouping, groups in analysis.groups), kind="two"),
        heading("What confidence is worth"),
        confidence(analysis),
        heading("Mistakes"),
        mistakes(analysis),
        listed(
            "Surest errors",
            f"No word in common with a gold answer, none touched: {analysis.errors_in_all:,} questions, surest first.",
            analysis,
            analysis.errors,
        ),
        listed(
            "Near misses",
            f"Wrong, but with a part or a word of a gold answer: {analysis.near_in_all:,} questions, surest first.",
            analysis,
            analysis.near,
        ),
    ]
    data = f"{about['Data']}: " if "Data" in about else ""
    return page(
        name, *parts, subtitle=f"{data}exact match and F1 of {len(analysis.result.ids):,} questions, looked into"
    )


def _headline(analysis: Analysis, about: Mapping[str, str | int]) -> Html:
    overall = analysis.overall
    tiles = [
        _tile("Exact match", f"{overall.exact_match:.2f}", f"95 %: {_to(overall.exact_interval)}"),
        _tile("F1", f"{overall.f1:.2f}", f"95 %: {_to(overall.f1_interval)}"),
    ]
    for grouping, groups in analysis.groups:
        if grouping.key == "answerable":
            tiles += [
                _tile(f"F1, {group.name}", f"{group.f1:.2f}", f"95 %: {_to(group.f1_interval)}") for group in groups
            ]
    if analysis.against is not None:
        difference = analysis.against.comparison.f1
        tiles.append(_tile("F1 against the other", signed(difference.points), f"95 %: {span(difference.interval)}"))
    official = facts(metric_rows(analysis.result.metrics))
    return joined(
        [grid(*tiles, kind="tiles"), card(facts(about), details("Official metrics", official))]
    )  # fmt: skip


def _tile(name: str, value: str, note: str) -> Html:
    return card(paragraph(name, kind="quiet"), paragraph(value, kind="score"), paragraph(note, kind="quiet"))


def _to(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.1f} to {interval[1]:.1f}"
