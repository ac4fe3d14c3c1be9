"""The parts of a report's page, each a function of the analysis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qa_fast.html.charts import bars, line, percent
from qa_fast.html.documents import key
from qa_fast.html.elements import card, details, facts, grid, heading, paragraph, table
from qa_fast.html.markup import Html, Part, element, joined
from qa_fast.report.analysis import COVERAGES, Against, Analysis, GroupDifference
from qa_fast.report.cases import case, share
from qa_fast.report.compare import Difference
from qa_fast.report.groups import Group, Grouping
from qa_fast.report.mistakes import KINDS
from qa_fast.schema import Int64s

# Points that a curve is drawn with.
_POINTS = 60
_MARKS = {"gold": "a gold answer", "predicted": "predicted, touches one", "wrong": "predicted, touches none"}
_OTHER = {"other": "the other model's, where its text stands once"}


def compared(analysis: Analysis, against: Against, name: str) -> Html:
    """The two models' scores, their difference and the questions that they differ on.

    Args:
        analysis: Of the model.
        against: The other.
        name: Of the model.
    """
    found, overall, other = against.comparison, analysis.overall, against.scores
    both = (found.exact_match, found.f1)
    rows: list[list[Part]] = [
        [_whole("this model"), _points(overall.exact_match), _points(overall.f1)],
        [_whole("other"), _points(other.exact_match), _points(other.f1)],
        [_whole("difference"), *(signed(difference.points) for difference in both)],
        [_whole("95 %, from"), *(signed(difference.interval[0]) for difference in both)],
        [_whole("to"), *(signed(difference.interval[1]) for difference in both)],
        [_whole("p, two-sided"), *(_chance(difference.p_value) for difference in both)],
    ]
    return joined(
        [
            heading("Compared"),
            card(
                facts({"This model": name, "Other": f"{against.other.name} ({against.other.source})"}),
                paragraph(_verdict(found.f1), kind="note"),
                table(["", "exact match", "F1"], rows, numeric=(1, 2)),
                paragraph(
                    f"By F1 this model is better on {found.wins:,} questions, worse on {found.losses:,} and equal on "
                    f"{found.ties:,}. Intervals and p are those of a paired bootstrap, {found.resamples:,} "
                    f"resamples with seed {found.seed} (Koehn 2004; Efron and Tibshirani 1993).",
                    kind="quiet",
                ),
                details(
                    "By kinds of questions",
                    paragraph(
                        "F1 of this model less that of the other, with 95 % intervals of a paired bootstrap; groups of "
                        "less than 30 questions are left out. Of many groups some differ by chance.",
                        kind="quiet",
                    ),
                    grid(*(_difference_chart(grouping, found) for grouping, found in against.groups), kind="two"),
                ),
                _folded("Where this model is better", analysis, against, against.better),
                _folded("Where the other is better", analysis, against, against.worse),
            ),
        ]
    )


def _verdict(difference: Difference) -> str:
    points, (low, high) = difference.points, difference.interval
    if low <= 0 <= high:
        return f"These questions do not decide it: {signed(points)} points of F1, 95 % {span(difference.interval)}."
    better = "better" if points > 0 else "worse"
    return f"This model is {better} by {abs(points):.2f} points of F1, 95 % {span(difference.interval)}."


def _difference_chart(grouping: Grouping, differences: Sequence[GroupDifference]) -> Html | None:
    told = [(group, group.f1) for group in differences if group.f1 is not None]
    if not told:
        return None
    return bars(
        grouping.title,
        [f"{group.name} · {group.count:,}" for group, _ in told],
        [f1.points for _, f1 in told],
        [f1.interval for _, f1 in told],
        value_format=signed,
    )


def group_chart(grouping: Grouping, groups: Sequence[Group]) -> Html:
    """One grouping: its rule, F1 as a chart, and all figures folded away."""
    rows: list[list[Part]] = [
        [
            _whole(group.name),
            group.count,
            _points(group.exact_match),
            _between(group.exact_interval),
            _points(group.f1),
            _between(group.f1_interval),
        ]
        for group in groups
    ]
    return bars(
        grouping.title,
        [f"{group.name} · {group.count:,}" for group in groups],
        [group.f1 for group in groups],
        [group.f1_interval for group in groups],
        note=grouping.rule,
        value_format=_points,
        low=0,
        high=100,
        numbers_table=table(["", "questions", "exact", "95 %", "F1", "95 %"], rows, numeric=range(1, 6)),
    )


def confidence(analysis: Analysis) -> Html:
    """Risk and coverage, and calibration."""
    risk, exact = analysis.risk, analysis.risk_exact
    total = len(risk.risk)
    counts = np.unique(np.linspace(min(total, 1 + total // _POINTS), total, _POINTS).astype(np.int64))
    counts = counts[counts > 0]
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
        {"right": analysis.calibration.accuracy[held].tolist(), "perfect": means},
        x_label="confidence",
        x_format=percent,
        y_format=percent,
        low=0,
        high=1,
    )
    rows = [
        (percent(coverage), share(least), _points(100 * (1 - lost)), _points(100 * (1 - missed)))
        for (coverage, _, least, lost), (*_, missed) in zip(
            risk.at(COVERAGES), exact.at(COVERAGES), strict=True
        )
    ]  # fmt: skip
    figures: list[tuple[str, Part]] = [
        ("AURC", f"{risk.aurc:.4f}: mean of 1 − F1 over all coverages; less is better"),
        ("Excess", f"{risk.excess:.4f} above the best order of these answers"),
        ("ECE", f"{analysis.calibration.error:.4f}: mean distance of confidence and exact match, in 10 bins"),
    ]
    return joined(
        [
            paragraph(
                "Confidence is the probability of what was predicted. First, what the model scores if it may pass over "
                "the questions that it is least sure of (Geifman and El-Yaniv 2017); then whether it is right as often "
                "as it is sure (Guo et al. 2017).",
                kind="quiet",
            ),
            grid(curve, reliability, kind="two"),
            grid(
                card(
                    table(["answered", "confidence", "F1", "exact"], rows, numeric=range(4)),
                    paragraph("Confidence is the least among those that are answered.", kind="quiet"),
                ),
                card(facts(figures)),
                kind="two",
            ),
        ]
    )


def mistakes(analysis: Analysis) -> Html:
    """What kinds of mistakes there are, and how often a right answer was among the candidates."""
    counts = np.bincount(analysis.kind, minlength=len(KINDS)).tolist()
    total = max(1, len(analysis.kind))
    rows = [
        ([_whole(name), element("div", what, class_="quiet")], count, share(count / total))
        for (name, what), count in zip(KINDS.items(), counts, strict=True)
        if count
    ]
    within = [(count, _points(found)) for count, found in analysis.within]
    return grid(
        card(heading("Kinds", 3), table(["", "questions", "share"], rows, numeric=(1, 2))),
        card(
            heading("Among the candidates", 3),
            paragraph(
                "How many of the answerable questions have a right answer among their first candidates: what a better "
                "choice among these could reach.",
                kind="quiet",
            ),
            table(["candidates", "right, %"], within, numeric=(0, 1)),
        ),
    )


def listed(title: str, rule: str, analysis: Analysis, rows: Int64s) -> Html | None:
    """Questions in their documents.

    Args:
        title: What they are.
        rule: How they were chosen.
        analysis: That they are of.
        rows: Which; without any there is nothing to show.
    """
    if not len(rows):
        return None
    legend = _MARKS | _OTHER if analysis.against is not None else _MARKS
    cases = [case(analysis, int(row), is_open=number == 0) for number, row in enumerate(rows)]
    return card(heading(title, 3), paragraph(rule, kind="quiet"), key(legend), *cases)


def _folded(title: str, analysis: Analysis, against: Against, rows: Int64s) -> Html | None:
    if not len(rows):
        return None
    cases = [case(analysis, int(row), against=against) for row in rows]
    return details(f"{title}: {len(rows)} questions that differ most", key(_MARKS | _OTHER), *cases)


def _points(value: float) -> str:
    return f"{value:.1f}"


def _chance(p_value: float) -> str:
    return f"{p_value:.4f}" if p_value >= 0.0005 else "< 0.0005"


def _between(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.0f}–{interval[1]:.0f}"


def signed(points: float) -> str:
    """Points with their sign."""
    return f"{points:+.2f}".replace("-", "−")


def span(interval: tuple[float, float]) -> str:
    """An interval of signed points."""
    return f"{signed(interval[0])} to {signed(interval[1])}"


def _whole(text: str) -> Html:
    """A short name that is not to be broken."""
    return element("span", text, class_="whole")
