"""Small SVG charts: a histogram, horizontal bars with intervals, and lines.

Colours are classes of the style sheet, so charts follow light and dark mode. Each chart is a figure with a title, a
description for readers who cannot see it, and its numbers in a folded table. Charts are drawn 440 units wide, close to
the width of a phone and of one column of a page, so that their text keeps its size. A plotting library would add two
seconds to every page and an extra to the installation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from qa_fast.html.elements import details, paragraph, table
from qa_fast.html.markup import Html, element

_WIDTH, _HEIGHT = 440, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 14, 40
_DASHES = (None, "7 4")
# Vertical space of one pointer's name above a histogram, and of one bar.
_POINTER_HEIGHT, _BAR_DISTANCE = 13, 24

Scale = Callable[[float], float]
Format = Callable[[float], str]
Interval = tuple[float, float]


def short(value: float) -> str:
    """Write a number in few characters, for an axis: 1500 becomes 1.5k."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{sign}"
    return f"{value:.3g}"


def percent(value: float) -> str:
    """Write a share in [0, 1] as a percentage."""
    return f"{100 * value:.3g} %"


def histogram(
    title: str,
    counts: Iterable[float],
    edges: Iterable[float],
    *,
    x_label: str = "",
    pointers: Mapping[str, float] | None = None,
    x_format: Format = short,
    overflow: float = 0,
) -> Html:
    """Draw how often values fall between edges.

    Args:
        title: Title of the figure.
        counts: Counts of N bins.
        edges: N + 1 increasing edges. If they are integers, a bin of width 1 is named by the one value it holds.
        x_label: Name and unit of the values.
        pointers: Values to mark with a named vertical line, such as a median or a limit.
        x_format: Writes a value as text.
        overflow: Number of values beyond the last edge. They are not drawn, and a note says so.

    Raises:
        ValueError: The numbers of counts and edges do not match.
    """
    heights, bounds = list(counts), list(edges)
    if len(bounds) != len(heights) + 1:
        raise ValueError(f"N counts need N + 1 edges; received {len(heights)} and {len(bounds)}")
    note = f"{short(overflow)} beyond {x_format(bounds[-1])} are not drawn" if overflow else ""
    if not any(heights):
        return _empty(title, note)
    is_whole = all(isinstance(edge, int) for edge in bounds)
    inside = {name: value for name, value in (pointers or {}).items() if bounds[0] <= value <= bounds[-1]}
    y_ticks = _round_ticks(0, max(heights), is_whole=True)
    x = _scale(bounds[0], bounds[-1], _LEFT, _WIDTH - _RIGHT)
    y = _scale(0, max(y_ticks[-1], *heights), _HEIGHT - _BOTTOM, _TOP + _POINTER_HEIGHT * len(inside))
    shapes = _y_axis(y, y_ticks, short)
    rows: list[tuple[str, int]] = []
    for low, high, height in zip(bounds, bounds[1:], heights, strict=False):
        if height:
            gap = 1 if x(high) - x(low) > 4 else 0
            shapes.append(_rectangle(x(low), y(height), x(high) - x(low) - gap, y(0) - y(height)))
            is_single = is_whole and high - low == 1
            rows.append((x_format(low) if is_single else f"{x_format(low)} to {x_format(high)}", round(height)))
    shapes += _x_axis(x, _round_ticks(bounds[0], bounds[-1], is_whole), x_format, x_label)
    for row, (name, value) in enumerate(inside.items()):
        is_right = x(value) > _WIDTH * 0.65
        baseline = _TOP + 2 + _POINTER_HEIGHT * row
        shapes.append(_line(x(value), baseline - 10, x(value), y(0), "pointer"))
        anchor, shift = ("end", -4) if is_right else ("start", 4)
        shapes.append(_text(x(value) + shift, baseline, f"{name} {x_format(value)}", anchor, "value"))
    peak = heights.index(max(heights))
    description = (
        f"{sum(heights):,.0f} values from {x_format(bounds[0])} to {x_format(bounds[-1])}, most often from "
        f"{x_format(bounds[peak])} to {x_format(bounds[peak + 1])}"
    )
    description += "".join(f"; {name} {x_format(value)}" for name, value in inside.items())
    return _figure(title, note, description, shapes, _HEIGHT, table([x_label or "from, to", "count"], rows))


def bars(
    title: str,
    labels: Iterable[str],
    values: Iterable[float],
    intervals: Iterable[Interval] | None = None,
    *,
    note: str = "",
    value_format: Format = short,
    high: float | None = None,
    numbers: Html | None = None,
) -> Html:
    """Draw one horizontal bar for each label.

    Args:
        title: Title of the figure.
        labels: N names; long ones are shortened in the picture and complete in the table.
        values: N finite numbers.
        intervals: N pairs (from, to), drawn as whiskers.
        note: A line below the title.
        value_format: Writes a value as text.
        high: End of the axis; by default the largest value.
        numbers: The folded table; by default labels, values and intervals.

    Raises:
        ValueError: The numbers of labels, values and intervals do not match.
    """
    names, lengths = list(labels), list(values)
    whiskers = [None] * len(names) if intervals is None else list(intervals)
    if not len(names) == len(lengths) == len(whiskers):
        raise ValueError(
            f"N labels need N values and intervals; received {len(names)}, {len(lengths)} and {len(whiskers)}"
        )
    if not names:
        return _empty(title, note)
    reach = [0.0, *lengths, *(edge for whisker in whiskers if whisker for edge in whisker)]
    left = min(170.0, 14 + 6.6 * max(map(len, names)))
    x = _scale(min(reach), max(reach) if high is None else high, left, _WIDTH - 62)
    bottom = 6 + _BAR_DISTANCE * len(names)
    shapes = [_line(x(0), 4, x(0), bottom, "axis")]
    for row, (name, value, whisker) in enumerate(zip(names, lengths, whiskers, strict=True)):
        middle = 6 + _BAR_DISTANCE * (row + 0.5)
        shapes.append(_text(left - 8, middle + 4, _shortened(name, int((left - 14) / 6.4)), "end", "name"))
        begin, end = sorted((x(0), x(value)))
        shapes.append(_rectangle(begin, middle - 8, end - begin, 16))
        if whisker is not None:
            low, top = x(whisker[0]), x(whisker[1])
            shapes.append(_line(low, middle, top, middle, "whisker"))
            shapes += [_line(edge, middle - 4, edge, middle + 4, "whisker") for edge in (low, top)]
            end = max(end, top)
        shapes.append(_text(end + 6, middle + 4, value_format(value), "start", "value"))
    texts = [value_format(value) for value in lengths]
    description = ", ".join(f"{name} {text}" for name, text in zip(names[:12], texts, strict=False))
    description += f" and {len(names) - 12} more" if len(names) > 12 else ""
    if numbers is None and intervals is None:
        numbers = table(["", "value"], zip(names, texts, strict=True), numeric=(1,))
    elif numbers is None:
        spans = [f"{value_format(low)} to {value_format(top)}" for low, top in filter(None, whiskers)]
        numbers = table(["", "value", "interval"], zip(names, texts, spans, strict=True), numeric=(1, 2))
    return _figure(title, note, description, shapes, bottom + 6, numbers)


def lines(
    title: str,
    xs: Sequence[float],
    ys_by_name: Mapping[str, Sequence[float]],
    *,
    x_label: str,
    low: float | None = None,
    high: float | None = None,
) -> Html:
    """Draw at most two lines of shares over the same shares.

    Args:
        title: Title of the figure.
        xs: N increasing shares in [0, 1].
        ys_by_name: N shares for each line, by its name.
        x_label: Meaning of x.
        low: Start of the y axis; by default 0, or the smallest value if that is far from 0.
        high: End of the y axis; by default the largest value.

    Raises:
        ValueError: There are too many lines, or a line has too few values.
    """
    if len(ys_by_name) > len(_DASHES):
        raise ValueError(f"a chart holds at most {len(_DASHES)} lines; received {len(ys_by_name)}")
    for name, ys in ys_by_name.items():
        if len(ys) != len(xs):
            raise ValueError(f"a line needs a value for each of {len(xs)} x; received {len(ys)} for {name!r}")
    values = [value for ys in ys_by_name.values() for value in ys]
    if not values:
        return _empty(title, "")
    least, most = min(values), max(values)
    low = (0.0 if 0 <= least <= 0.6 * most else least) if low is None else low
    high = most if high is None else high
    y_ticks = _round_ticks(low, high if high > low else low + (abs(low) or 1))
    x = _scale(xs[0], xs[-1], _LEFT, _WIDTH - _RIGHT)
    y = _scale(min(low, y_ticks[0]), max(high, y_ticks[-1]), _HEIGHT - _BOTTOM, _TOP)
    shapes = [*_y_axis(y, y_ticks, percent), *_x_axis(x, _round_ticks(xs[0], xs[-1]), percent, x_label)]
    names, courses = [], []
    for number, (name, ys) in enumerate(ys_by_name.items()):
        points = [(round(x(value), 1), round(y(height), 1)) for value, height in zip(xs, ys, strict=True)]
        shapes.append(_curve(number, "M" + "L".join(f"{across} {down}" for across, down in points)))
        if len(points) <= 30:  # one point makes no visible line
            shapes += [element("circle", cx=a, cy=b, r=2.5, class_=f"fill-{number + 1}") for a, b in points]
        sample = element("svg", _curve(number, "M1 6H27"), viewBox="0 0 28 12", aria_hidden="true")
        names.append(element("li", sample, " ", name))
        courses.append(f"{name} from {percent(ys[0])} to {percent(ys[-1])}, at most {percent(max(ys))}")
    rows = [[percent(value) for value in row] for row in zip(xs, *ys_by_name.values(), strict=True)]
    numbers = table([x_label, *ys_by_name], rows, numeric=range(1 + len(ys_by_name)))
    return _figure(title, "", "; ".join(courses), shapes, _HEIGHT, numbers, element("ul", *names, class_="key"))


def _figure(
    title: str,
    note: str,
    description: str,
    shapes: Sequence[Html],
    height: float,
    numbers: Html,
    legend: Html | None = None,
) -> Html:
    """Put shapes into a figure with its caption, description and folded numbers."""
    picture = element(
        "svg", *shapes, viewBox=f"0 0 {_WIDTH} {height:g}", role="img", aria_label=f"{title}: {description}"
    )
    folded = details("Numbers", paragraph(f"{description}.", kind="quiet"), numbers)
    return element("figure", _caption(title, note), legend, picture, folded)


def _empty(title: str, note: str) -> Html:
    return element("figure", _caption(title, note), paragraph("No values.", kind="quiet"))


def _caption(title: str, note: str) -> Html:
    return element("figcaption", title, element("span", note, class_="quiet") if note else None)


def _scale(low: float, high: float, begin: float, end: float) -> Scale:
    """Map values between `low` and `high` to positions between `begin` and `end`."""
    size = (high - low) or 1.0
    return lambda value: begin + (value - low) / size * (end - begin)


def _round_ticks(low: float, high: float, is_whole: bool = False) -> list[float]:
    """Return about five round numbers from `low` to `high`; integers if the values are integers."""
    rough = (high - low) / 5
    if not rough > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(times for times in (1, 2, 2.5, 5, 10) if times * power >= rough * 0.999)
    if is_whole:
        step = 5.0 if step == 2.5 else max(step, 1.0)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(step * number, 12) for number in range(first, last + 1)] or [low]


def _y_axis(y: Scale, ticks: Sequence[float], written: Format) -> list[Html]:
    """Draw rules across the picture with their numbers at the left."""
    rules = [_line(_LEFT, y(tick), _WIDTH - _RIGHT, y(tick), "rule") for tick in ticks]
    return rules + [_text(_LEFT - 7, y(tick) + 4, written(tick), "end") for tick in ticks]


def _x_axis(x: Scale, ticks: Sequence[float], written: Format, label: str) -> list[Html]:
    """Draw the axis at the bottom with its numbers and its label."""
    base = _HEIGHT - _BOTTOM
    shapes = [_line(_LEFT, base, _WIDTH - _RIGHT, base, "axis")]
    shapes += [_line(x(tick), base, x(tick), base + 4, "axis") for tick in ticks]
    shapes += [_text(x(tick), base + 16, written(tick), "middle") for tick in ticks]
    return [*shapes, _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, _shortened(label, 64), "middle")]


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: max(longest - 1, 1)] + "…"


def _rectangle(x: float, y: float, width: float, height: float) -> Html:
    place = {"x": round(x, 1), "y": round(y, 1), "width": round(max(width, 0.5), 1), "height": round(height, 1)}
    return element("rect", **place, class_="fill-1")


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    return element("line", x1=round(x1, 1), y1=round(y1, 1), x2=round(x2, 1), y2=round(y2, 1), class_=kind)


def _curve(number: int, path: str) -> Html:
    return element("path", d=path, class_=f"curve stroke-{number + 1}", stroke_dasharray=_DASHES[number])


def _text(x: float, y: float, text: str, anchor: str, kind: str | None = None) -> Html:
    return element("text", text, x=round(x, 1), y=round(y, 1), text_anchor=anchor, class_=kind)
