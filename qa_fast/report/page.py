"""The report as a page: scores, by groups, what confidence is worth, mistakes in their documents, a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from qa_fast.errors import UserError
from qa_fast.html.charts import bars, line, percent
from qa_fast.html.documents import key
from qa_fast.html.elements import card, details, facts, grid, heading, paragraph, table
from qa_fast.html.markup import Html, Part, joined
from qa_fast.html.page import page, save_page
from qa_fast.report.analysis import COVERAGES, MOST_SHOWN, Against, Analysis, Other, analyse
from qa_fast.report.cases import case, share
from qa_fast.report.compare import Difference
from qa_fast.report.groups import Group, Grouping
from qa_fast.report.mistakes import KINDS
from qa_fast.scoring import EvaluationResult

# Points that a curve is drawn with.
_POINTS = 60
_MARKS = {"gold": "a gold answer", "predicted": "predicted, touches one", "wrong": "predicted, touches none"}


def check_report(path: Path) -> None:
    """Refuse a path that no report can be written to, before time is spent on scoring.

    Raises:
        UserError: It is a folder, or its folder is not there.
    """
    if path.is_dir() or not path.absolute().parent.is_dir():
        state = "is a folder" if path.is_dir() else f"lies in {path.absolute().parent}, which is no folder"
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
        _compared(analysis, against, name) if against is not None else None,
        heading("By kinds of questions"),
        paragraph(
            "F1 of each group with its 95 % interval: the bootstrap's (Efron 1979), Wilson's (1927) below 30 questions. "
            "Exact match has Wilson's throughout.",
            kind="quiet",
        ),
        [_group_card(grouping, groups) for grouping, groups in analysis.groups],
        heading("What confidence is worth"),
        _confidence(analysis),
        heading("Mistakes"),
        _mistakes(analysis),
        _listed(
            "Surest errors",
            f"No word in common with a gold answer, none touched: {analysis.errors_in_all:,} questions, the surest first.",
            analysis,
            analysis.errors,
        ),
        _listed(
            "Near misses",
            f"Wrong, but with a part or a word of a gold answer: {analysis.near_in_all:,} questions, the surest first.",
            analysis,
            analysis.near,
        ),
    ]
    return page(name, *parts, subtitle=f"Exact match and F1 of {len(analysis.result.ids):,} questions, looked into")


def _headline(analysis: Analysis, about: Mapping[str, str | int]) -> Html:
    overall = analysis.overall
    tiles = [
        _tile("Exact match", overall.exact_match, overall.exact_interval),
        _tile("F1", overall.f1, overall.f1_interval),
    ]
    official = [(name, value) for name, value in _flat(analysis.result.metrics)]
    return joined(
        [
            grid(*tiles),
            card(facts(about), details("Official metrics", facts((name, _plain(value)) for name, value in official))),
        ]
    )


def _tile(name: str, value: float, interval: tuple[float, float]) -> Html:
    low, high = interval
    return card(
        paragraph(name, kind="quiet"),
        paragraph(f"{value:.2f}", kind="score"),
        paragraph(f"95 % interval {low:.1f} to {high:.1f}", kind="quiet"),
    )


def _compared(analysis: Analysis, against: Against, name: str) -> Html:
    found, overall, other = against.comparison, analysis.overall, against.scores
    rows = [
        ("Exact match", _points(overall.exact_match), _points(other.exact_match), *_difference(found.exact_match)),
        ("F1", _points(overall.f1), _points(other.f1), *_difference(found.f1)),
    ]
    header = ["", "this model", "other", "difference", "95 % interval", "p"]
    return joined(
        [
            heading("Compared"),
            card(
                facts({"This model": name, "Other": f"{against.other.name} ({against.other.source})"}),
                paragraph(_verdict(found.f1), kind="note"),
                table(header, rows, numeric=range(1, 6)),
                paragraph(
                    f"By F1 this model is better on {found.wins:,} questions, worse on {found.losses:,}, equal on "
                    f"{found.ties:,}. Intervals and p are of a paired bootstrap over the questions: {found.resamples:,} "
                    f"resamples, seed {found.seed} (Koehn 2004; Efron and Tibshirani 1993).",
                    kind="quiet",
                ),
                _folded("Where this model is better", analysis, against.better),
                _folded("Where the other is better", analysis, against.worse),
            ),
        ]
    )


def _verdict(difference: Difference) -> str:
    low, high = difference.interval
    if low <= 0 <= high:
        return f"No difference in F1 that these questions could show: {difference.points:+.2f} points, {_to(low, high)}."
    better = "better" if difference.points > 0 else "worse"
    return f"This model's F1 is {better} by {abs(difference.points):.2f} points; 95 % interval {_to(low, high)}."


def _difference(difference: Difference) -> tuple[str, str, str]:
    least = f"{difference.p_value:.4f}" if difference.p_value >= 0.0005 else "< 0.0005"
    return f"{difference.points:+.2f}", _to(*difference.interval), least


def _group_card(grouping: Grouping, groups: Sequence[Group]) -> Html:
    rows = [
        (group.name, group.count, _points(group.exact_match), f"{group.exact_interval[0]:.0f}–{group.exact_interval[1]:.0f}",
         _points(group.f1), f"{group.f1_interval[0]:.0f}–{group.f1_interval[1]:.0f}")
        for group in groups
    ]  # fmt: skip
    picture = bars(
        "F1",
        [group.name for group in groups],
        [group.f1 for group in groups],
        [group.f1_interval for group in groups],
        value_format=_points,
        low=0,
        high=100,
    )
    header = ["", "questions", "exact", "95 %", "F1", "95 %"]
    return card(
        heading(grouping.title, 3),
        paragraph(grouping.rule, kind="quiet"),
        grid(picture, table(header, rows, numeric=range(1, 6))),
    )


def _confidence(analysis: Analysis) -> Html:
    risk, exact = analysis.risk, analysis.risk_exact
    total = len(risk.risk)
    counts = np.unique(np.linspace(max(1, total / _POINTS), total, _POINTS).astype(np.int64)) if total else np.zeros(0, int)
    curve = line(
        "Answering only the surest",
        (counts / max(total, 1)).tolist(),
        {"F1": (1 - risk.risk[counts - 1]).tolist(), "exact match": (1 - exact.risk[counts - 1]).tolist()},
        x_label="share of the questions that are answered",
        x_format=percent,
        y_format=percent,
    )
    held = np.flatnonzero(analysis.calibration.count)
    means = analysis.calibration.confidence[held].tolist()
    reliability = line(
        "Calibration",
        means,
        {"right": analysis.calibration.accuracy[held].tolist(), "as sure as right": means},
        x_label="confidence",
        x_format=percent,
        y_format=percent,
        low=0,
        high=1,
    )
    rows = [
        (percent(coverage), count, share(least), _points(100 * (1 - lost)), _points(100 * (1 - missed)))
        for (coverage, count, least, lost), (*_, missed) in zip(
            risk.at(COVERAGES), exact.at(COVERAGES), strict=True
        )
    ]  # fmt: skip
    figures: list[tuple[str, Part]] = [
        ("AURC", f"{risk.aurc:.4f}: mean of 1 − F1 over all coverages; less is better"),
        ("Excess", f"{risk.excess:.4f} above the best order of these answers"),
        ("ECE", f"{analysis.calibration.error:.4f}: mean distance of confidence and exact match, in 10 bins"),
    ]
    return card(
        paragraph(
            "Confidence is the probability of what was predicted. On the left what a model scores that may pass over the "
            "questions it is least sure of (Geifman and El-Yaniv 2017); on the right whether it is right as often as it is "
            "sure (Guo et al. 2017).",
            kind="quiet",
        ),
        grid(curve, reliability),
        grid(facts(figures), table(["answered", "questions", "confidence from", "F1", "exact"], rows, numeric=range(5))),
    )


def _mistakes(analysis: Analysis) -> Html:
    counts = np.bincount(analysis.kind, minlength=len(KINDS)).tolist()
    total = max(1, len(analysis.kind))
    rows = [
        (name, count, share(count / total), what)
        for (name, what), count in zip(KINDS.items(), counts, strict=True)
        if count
    ]
    within = [(count, _points(found)) for count, found in analysis.within]
    return card(
        grid(
            table(["", "questions", "share", "what it is"], rows, numeric=(1, 2)),
            table(
                ["candidates", "right among them, %"], within,
                caption="What a better choice among the candidates could reach, of the answerable questions",
                numeric=(0, 1),
            ),
        )
    )  # fmt: skip


def _listed(title: str, rule: str, analysis: Analysis, rows: Sequence[int]) -> Html | None:
    if not len(rows):
        return None
    legend = {**_MARKS, "other": "the other model's"} if analysis.against is not None else _MARKS
    cases = [case(analysis, int(row), is_open=number == 0) for number, row in enumerate(rows)]
    return card(heading(title, 3), paragraph(rule, kind="quiet"), key(legend), *cases)


def _folded(title: str, analysis: Analysis, rows: Sequence[int]) -> Html | None:
    if not len(rows):
        return None
    return details(f"{title}: {len(rows)} questions that differ most", *(case(analysis, int(row)) for row in rows))


def _points(value: float) -> str:
    return f"{value:.1f}"


def _to(low: float, high: float) -> str:
    return f"{low:+.2f} to {high:+.2f}"


def _plain(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value}"


def _flat(metrics: Mapping[str, object], before: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for name, value in metrics.items():
        rows += _flat(value, f"{before}{name}.") if isinstance(value, dict) else [(before + name, value)]
    return rows
