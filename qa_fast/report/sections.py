"""The sections of a report's page, each a function of the analysis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qa_fast.html.charts import bars, lines, percent
from qa_fast.html.documents import key
from qa_fast.html.elements import card, details, facts, grid, heading, paragraph, table
from qa_fast.html.markup import Html, Part, element, joined
from qa_fast.report.analysis import Against, Analysis
from qa_fast.report.cases import question_case, share_text
from qa_fast.report.compare import Difference, GroupDifference
from qa_fast.report.groups import Group, Grouping
from qa_fast.report.mistakes import KINDS
from qa_fast.report.risk import Calibration
from qa_fast.schema import Int64s

# Points that a curve is drawn with.
_CURVE_POINTS = 60
_MARKS = {"gold": "gold answer", "predicted": "prediction that overlaps one", "wrong": "prediction that overlaps none"}
_OTHER_MARK = {"other": "the other model's answer, if its text occurs once"}


def comparison(analysis: Analysis, against: Against, name: str) -> Html:
    """Return both models' scores, their differences and the questions on which they differ.

    Args:
        analysis: The analysis of the result.
        against: Its comparison with the other model.
        name: Name of the model.
    """
    compared, overall, other = against.comparison, analysis.overall, against.scores
    overall_differences = (compared.exact_match, compared.f1)
    rows: list[list[Part]] = [
        [_unbroken("this model"), _points(overall.exact_match), _points(overall.f1)],
        [_unbroken("other"), _points(other.exact_match), _points(other.f1)],
        [_unbroken("difference"), *(signed(difference.points) for difference in overall_differences)],
        [_unbroken("95 %, from"), *(signed(difference.interval[0]) for difference in overall_differences)],
        [_unbroken("to"), *(signed(difference.interval[1]) for difference in overall_differences)],
        [_unbroken("p, two-sided"), *(_p_value(difference.p_value) for difference in overall_differences)],
    ]
    charts = (_difference_chart(grouping, differences) for grouping, differences in against.groups)
    return joined(
        [
            heading("Comparison"),
            card(
                facts({"This model": name, "Other": f"{against.other.name} ({against.other.source})"}),
                paragraph(_verdict(compared.f1), kind="note"),
                table(["", "exact match", "F1"], rows, numeric=(1, 2)),
                paragraph(
                    f"By F1 this model is better on {compared.wins:,} questions, worse on {compared.losses:,} and "
                    f"equal on {compared.ties:,}. Intervals and p-values are from a paired bootstrap with "
                    f"{compared.resamples:,} resamples and seed {compared.seed} (Koehn 2004; Efron and Tibshirani "
                    "1993).",
                    kind="quiet",
                ),
                details(
                    "By kinds of questions",
                    paragraph(
                        "F1 of this model less F1 of the other, with 95 % intervals of a paired bootstrap. Groups with "
                        "fewer than 30 questions are left out. With many groups, some differ by chance.",
                        kind="quiet",
                    ),
                    grid(*charts, kind="two"),
                ),
                _different("Where this model is better", analysis, against.better),
                _different("Where the other is better", analysis, against.worse),
            ),
        ]
    )


def _verdict(difference: Difference) -> str:
    points, (low, high) = difference.points, difference.interval
    if low <= 0 <= high:
        return (
            f"The difference is not significant: {signed(points)} points of F1, 95 % interval "
            f"{interval_text(difference.interval)}."
        )
    better = "better" if points > 0 else "worse"
    return (
        f"This model is {better} by {abs(points):.2f} points of F1, 95 % interval {interval_text(difference.interval)}."
    )


def _difference_chart(grouping: Grouping, differences: Sequence[GroupDifference]) -> Html | None:
    compared = [(group, group.f1) for group in differences if group.f1 is not None]
    if not compared:
        return None
    return bars(
        grouping.title,
        [f"{group.name} · {group.count:,}" for group, _ in compared],
        [f1.points for _, f1 in compared],
        [f1.interval for _, f1 in compared],
        value_format=signed,
    )


def _different(title: str, analysis: Analysis, rows: Int64s) -> Html | None:
    """Return a fold with the questions on which the models differ most."""
    if not len(rows):
        return None
    cases = [question_case(analysis, int(row), beside_other=True) for row in rows]
    return details(f"{title}: {len(rows)} questions with the largest difference", key(_MARKS | _OTHER_MARK), *cases)


def group_chart(grouping: Grouping, groups: Sequence[Group]) -> Html:
    """Return one grouping: its rule, F1 as a chart, and all figures in a fold."""
    rows: list[list[Part]] = [
        [
            _unbroken(group.name),
            group.count,
            _points(group.exact_match),
            _rounded_interval(group.exact_interval),
            _points(group.f1),
            _rounded_interval(group.f1_interval),
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
        high=100,
        numbers=table(["", "questions", "exact", "95 %", "F1", "95 %"], rows, numeric=range(1, 6)),
    )


def confidence(analysis: Analysis) -> Html:
    """Return the risk-coverage curves and the calibration."""
    risk, exact, calibration = analysis.risk, analysis.risk_exact, analysis.calibration
    total = len(risk.risk)
    counts = np.unique(np.linspace(min(total, 1 + total // _CURVE_POINTS), total, _CURVE_POINTS).astype(np.int64))
    counts = counts[counts > 0]
    curve = lines(
        "Scores of the most confident predictions",
        (counts / max(total, 1)).tolist(),
        {"F1": (1 - risk.risk[counts - 1]).tolist(), "exact match": (1 - exact.risk[counts - 1]).tolist()},
        x_label="share of the questions that are answered",
    )
    before, fitted = analysis.uncalibrated, analysis.result.rules.calibration
    rows = [
        (
            percent(point["coverage"]),
            share_text(point["least_confidence"]),
            _points(point["f1"]),
            _points(point["exact_match"]),
        )
        for point in analysis.coverage_points()
    ]
    figures: list[tuple[str, Part]] = [
        ("AURC", f"{risk.aurc:.4f}: mean of 1 − F1 over all coverages; lower is better"),
        ("Excess", f"{risk.excess:.4f} above the AURC of the best order of these answers"),
        ("ECE", f"{calibration.error:.4f}: mean distance of confidence and exact match, in 10 bins"),
    ]
    if before is not None and fitted is not None:
        figures.append(("ECE before", f"{before.error:.4f}: without the calibration, which was {fitted.origin}"))
        meaning = "the fitted probability that the prediction is right"
    else:
        meaning = "the probability of the prediction among the best spans; the model is not calibrated"
    return joined(
        [
            paragraph(
                f"Confidence is {meaning}. The first chart shows the scores if the model may "
                "leave its least confident questions unanswered (Geifman and El-Yaniv 2017). The second shows whether "
                "the model is right as often as its confidence says (Guo et al. 2017).",
                kind="quiet",
            ),
            grid(
                curve,
                _reliability("Calibration", calibration),
                None if before is None else _reliability("Before calibration", before),
                kind="two",
            ),
            grid(
                card(
                    table(["answered", "confidence", "F1", "exact"], rows, numeric=range(4)),
                    paragraph("Confidence is the lowest of the answered questions.", kind="quiet"),
                ),
                card(facts(figures)),
                kind="two",
            ),
        ]
    )


def _reliability(title: str, calibration: Calibration) -> Html:
    """Return the share of right predictions by confidence as a chart."""
    used = np.flatnonzero(calibration.count)
    means = calibration.confidence[used].tolist()
    right = {"right": calibration.accuracy[used].tolist(), "perfect": means}
    return lines(title, means, right, x_label="confidence", low=0, high=1)


def mistakes(analysis: Analysis) -> Html:
    """Return the kinds of mistakes, and how often a right answer was among the candidates."""
    counts = np.bincount(analysis.kind, minlength=len(KINDS)).tolist()
    total = max(1, len(analysis.kind))
    rows = [
        ([_unbroken(name), element("div", meaning, class_="quiet")], count, share_text(count / total))
        for (name, meaning), count in zip(KINDS.items(), counts, strict=True)
        if count
    ]
    within = [(count, _points(percentage)) for count, percentage in analysis.right_within]
    return grid(
        card(heading("Kinds", 3), table(["", "questions", "share"], rows, numeric=(1, 2))),
        card(
            heading("Right answers among the candidates", 3),
            paragraph(
                "Percentage of the answerable questions with a right answer among the first candidates, which a better "
                "choice among them could reach.",
                kind="quiet",
            ),
            table(["candidates", "right, %"], within, numeric=(0, 1)),
        ),
    )


def listed(title: str, rule: str, analysis: Analysis, rows: Int64s) -> Html | None:
    """Return a list of questions in their documents, or None if it is empty.

    Args:
        title: Title of the list.
        rule: How the questions were chosen.
        analysis: The analysis of the result.
        rows: Rows of the questions, of which the first `analysis.most` are shown.
    """
    if not len(rows):
        return None
    marks = _MARKS | _OTHER_MARK if analysis.against is not None else _MARKS
    cases = [question_case(analysis, int(row), is_open=at == 0) for at, row in enumerate(rows[: analysis.most])]
    number = f"{len(rows):,} question{'' if len(rows) == 1 else 's'}, most confident first."
    return card(heading(title, 3), paragraph(f"{rule}: {number}", kind="quiet"), key(marks), *cases)


def _points(value: float) -> str:
    return f"{value:.1f}"


def _p_value(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0005 else "< 0.0005"


def _rounded_interval(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.0f}–{interval[1]:.0f}"


def signed(points: float) -> str:
    """Write points with their sign."""
    return f"{points:+.2f}".replace("-", "−")


def interval_text(interval: tuple[float, float]) -> str:
    """Write an interval of signed points."""
    return f"{signed(interval[0])} to {signed(interval[1])}"


def _unbroken(text: str) -> Html:
    """Return a short name that is kept on one line."""
    return element("span", text, class_="whole")
