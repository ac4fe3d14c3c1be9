"""Small charts as SVG in the page: histogram, bars with intervals, lines.

Colours are classes of the style sheet, so they follow light and dark. Each chart is a figure with its title, a
sentence for those who cannot see it, and its numbers in a folded table. They are drawn 440 units wide, near to what a
telephone and a column of a page show, so that their writing keeps its size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from qa_fast.html.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    figure,
    finite,
    rectangle,
    round_ticks,
    scale,
    shortened,
    stroke,
    svg,
    writing,
    x_axis,
    y_axis,
)
from qa_fast.html.axes import (
    percent as percent,
)
from qa_fast.html.axes import (
    short as short,
)
from qa_fast.html.elements import table
from qa_fast.html.markup import Html, Part, element, joined

_SERIES = 6  # colours that the style sheet has
_DASHES = (None, "7 4", "2 4", "9 3 2 3", "4 2", "1 3")


def histogram(
    title: str,
    counts: Iterable[float],
    edges: Iterable[float],
    *,
    x_label: str = "",
    note: str = "",
    pointers: Mapping[str, float] | None = None,
    x_format: Callable[[float], str] = short,
    overflow: float = 0,
) -> Html:
    """How often values fall between edges.

    Args:
        title: Above it.
        counts: For each of N bins.
        edges: N + 1, increasing; of whole numbers where the values are such, a bin of width 1 then holds one of them.
        x_label: What the values are, with their unit.
        note: A quiet line below the title.
        pointers: Values to point at with a line, by name: a median, a limit.
        x_format: How values are written.
        overflow: Values beyond the last edge, told in the note; they are not drawn.
    """
    heights, bounds = [finite(count) or 0.0 for count in counts], list(edges)
    is_whole = all(isinstance(edge, int) for edge in bounds)
    if len(bounds) != len(heights) + 1:
        raise ValueError(f"N counts need N + 1 edges; received {len(heights)} and {len(bounds)}")
    if overflow:
        note = f"{note}{'; ' * bool(note)}{short(overflow)} beyond {x_format(bounds[-1])} are not drawn"
    if not any(heights):
        return figure(title, note, None, "No values.", None)
    x = scale(bounds[0], bounds[-1], LEFT, WIDTH - RIGHT)
    ticks = round_ticks(0, max(heights), is_whole=True)
    pointers = {name: value for name, value in (pointers or {}).items() if bounds[0] <= value <= bounds[-1]}
    y = scale(0, max(ticks[-1], max(heights)), HEIGHT - BOTTOM, TOP + 13 * len(pointers))  # their names above
    bars = []

    def bin_name(low: float, high: float) -> str:
        return x_format(low) if is_whole and high - low == 1 else f"{x_format(low)} to {x_format(high)}"

    for height, low, high in zip(heights, bounds, bounds[1:], strict=False):
        gap = 1 if x(high) - x(low) > 4 else 0
        if height:
            says = f"{bin_name(low, high)}: {height:,.0f}"
            bars.append(rectangle(x(low), y(height), max(x(high) - x(low) - gap, 0.5), y(0) - y(height), 1, says))
    drawn = [y_axis(y, ticks, short), *bars, x_axis(x, round_ticks(bounds[0], bounds[-1], is_whole), x_format, x_label)]
    for row, (name, value) in enumerate(pointers.items()):
        is_right = x(value) > WIDTH * 0.65
        drawn.append(stroke(x(value), TOP - 8 + 13 * row, x(value), y(0), "pointer"))
        drawn.append(writing(x(value) + (-4 if is_right else 4), TOP + 2 + 13 * row, f"{name} {x_format(value)}",
                           "end" if is_right else "start", "value"))  # fmt: skip
    peak = max(range(len(heights)), key=heights.__getitem__)
    words = (
        f"{sum(heights):,.0f} values from {x_format(bounds[0])} to {x_format(bounds[-1])}, most often from "
        f"{x_format(bounds[peak])} to {x_format(bounds[peak + 1])}"
    )
    words += "".join(f"; {name} {x_format(value)}" for name, value in pointers.items())
    rows = [
        (bin_name(low, high), round(height))
        for low, high, height in zip(bounds, bounds[1:], heights, strict=False)
        if height
    ]
    return figure(
        title, note, svg(drawn, HEIGHT, f"{title}: {words}"), words, table([x_label or "from, to", "count"], rows)
    )


def bars(
    title: str,
    labels: Iterable[str],
    values: Iterable[float],
    intervals: Iterable[tuple[float, float] | None] | None = None,
    *,
    note: str = "",
    value_format: Callable[[float], str] = short,
    low: float | None = None,
    high: float | None = None,
    numbers_table: Html | None = None,
) -> Html:
    """A bar for each label, from left to right.

    Args:
        title: Above it.
        labels: N names; long ones are cut in the picture and whole in the table.
        values: N numbers; what is not finite gets no bar.
        intervals: N pairs (from, to) drawn as whiskers, or None where there is none.
        note: A quiet line below the title.
        value_format: How values are written.
        low: Where the axis begins; 0, or the least value, by itself.
        high: Where it ends.
        numbers_table: Folded away below in place of the chart's own, where there is more to tell.
    """
    names, numbers = list(labels), [finite(value) for value in values]
    spans = list(intervals) if intervals is not None else [None] * len(names)
    if not len(names) == len(numbers) == len(spans):
        raise ValueError(f"N labels need N values and intervals; received {len(names)}, {len(numbers)}, {len(spans)}")
    seen = [value for value in numbers if value is not None]
    if not seen:
        return figure(title, note, None, "No values.", None)
    reach = seen + [edge for span in spans if span for edge in span if math.isfinite(edge)]
    low = min(0.0, *reach) if low is None else low
    high = max(0.0, *reach) if high is None else high
    left = min(170.0, 14 + 6.6 * max(map(len, names)))
    x = scale(low, high if high > low else low + 1, left, WIDTH - 62)
    row_height, top = 24, 6
    height = top + row_height * len(names) + 6
    drawn: list[Html] = []
    for row, (name, value, span) in enumerate(zip(names, numbers, spans, strict=True)):
        middle = top + row_height * (row + 0.5)
        drawn.append(writing(left - 8, middle + 4, shortened(name, int((left - 14) / 6.4)), "end", "name"))
        end = x(low)
        if value is not None:
            base, tip = x(min(max(0.0, low), high)), x(min(max(value, low), high))
            said = f"{name}: {value_format(value)}"
            drawn.append(rectangle(min(base, tip), middle - 8, max(abs(tip - base), 0.5), 16, 1, said))
            end = max(base, tip)
        if span is not None and all(map(math.isfinite, span)):
            a, b = (x(min(max(edge, low), high)) for edge in span)
            drawn += [stroke(a, middle, b, middle, "whisker")]
            drawn += [stroke(at, middle - 4, at, middle + 4, "whisker") for at in (a, b)]
            end = max(end, b)
        drawn.append(writing(end + 6, middle + 4, "–" if value is None else value_format(value), "start", "value"))
    drawn.append(stroke(x(min(max(0.0, low), high)), top, x(min(max(0.0, low), high)), height - 6, "axis"))
    written = ["–" if value is None else value_format(value) for value in numbers]
    words = ", ".join(f"{name} {value}" for name, value in zip(names[:12], written, strict=False))
    words += f" and {len(names) - 12} more" if len(names) > 12 else ""
    rows: list[Sequence[Part]] = [
        (name, value, f"{value_format(span[0])} to {value_format(span[1])}" if span else "")
        for name, value, span in zip(names, written, spans, strict=True)
    ]
    header: list[Part] = ["", "value", "interval"]
    if numbers_table is not None:
        return figure(title, note, svg(drawn, height, f"{title}: {words}"), words, numbers_table)
    if not any(spans):
        header, rows = header[:2], [row[:2] for row in rows]
    return figure(title, note, svg(drawn, height, f"{title}: {words}"), words, table(header, rows, numeric=(1, 2)))


def ranges(
    title: str,
    labels: Iterable[str],
    spans: Iterable[tuple[float, float]],
    *,
    x_label: str = "",
    note: str = "",
    band: tuple[float, float] | None = None,
    band_label: str = "",
    x_format: Callable[[float], str] = short,
) -> Html:
    """Stretches of one axis below each other, such as the windows of a document.

    Args:
        title: Above it.
        labels: N names.
        spans: N pairs (from, to).
        x_label: What the axis counts.
        note: A quiet line below the title.
        band: A stretch that is marked across all of them.
        band_label: What it is.
        x_format: How its numbers are written.
    """
    names, pairs = list(labels), list(spans)
    if len(names) != len(pairs):
        raise ValueError(f"N labels need N spans; received {len(names)} and {len(pairs)}")
    if not pairs:
        return figure(title, note, None, "No values.", None)
    low, high = min(0.0, *(pair[0] for pair in pairs)), max(pair[1] for pair in pairs)
    row_height, left, top = 18, min(150.0, 14 + 6.6 * max(map(len, names))), 4
    height = top + row_height * len(names) + BOTTOM
    x = scale(low, high if high > low else low + 1, left, WIDTH - RIGHT - 12)
    drawn = []
    for row, (name, (begin, end)) in enumerate(zip(names, pairs, strict=True)):
        middle = top + row_height * (row + 0.5)
        drawn.append(writing(left - 8, middle + 4, shortened(name, int((left - 14) / 6.4)), "end", "name"))
        says = f"{name}: {x_format(begin)} to {x_format(end)}"
        drawn.append(rectangle(x(begin), middle - 6, max(x(end) - x(begin), 1), 12, 4, says))
    if band:
        width = max(x(band[1]) - x(band[0]), 2)
        says = f"{band_label}: {x_format(band[0])} to {x_format(band[1])}"
        drawn.append(rectangle(x(band[0]), top - 2, width, row_height * len(names) + 4, "band", says))
    drawn.append(x_axis(x, round_ticks(low, high), x_format, x_label, left, height))
    words = ", ".join(f"{name} {x_format(a)} to {x_format(b)}" for name, (a, b) in zip(names, pairs, strict=True))
    words += f"; {band_label} {x_format(band[0])} to {x_format(band[1])}" if band else ""
    rows = [(name, x_format(a), x_format(b)) for name, (a, b) in zip(names, pairs, strict=True)]
    numbers = table(["", "from", "to"], rows, numeric=(1, 2))
    return figure(title, note, svg(drawn, height, f"{title}: {words}"), words, numbers)


def line(
    title: str,
    xs: Iterable[float],
    ys_by_name: Mapping[str, Iterable[float]],
    *,
    x_label: str = "",
    note: str = "",
    x_format: Callable[[float], str] = short,
    y_format: Callable[[float], str] = short,
    low: float | None = None,
    high: float | None = None,
) -> Html:
    """One line a name, over the same values of x.

    Args:
        title: Above it.
        xs: N numbers, increasing.
        ys_by_name: N numbers for each name; what is not finite leaves a gap. At most six names.
        x_label: What x is, with its unit.
        note: A quiet line below the title.
        x_format: How values of x are written.
        y_format: How values of y are written.
        low: Where the upright axis begins; by itself at 0 where values come near to it.
        high: Where it ends.
    """
    at = [float(value) for value in xs]
    lines = {name: [finite(value) for value in ys] for name, ys in ys_by_name.items()}
    if len(lines) > _SERIES:
        raise ValueError(f"a chart holds at most {_SERIES} lines; received {len(lines)}")
    for name, ys in lines.items():
        if len(ys) != len(at):
            raise ValueError(f"a line needs a value for each of {len(at)} x; received {len(ys)} for {name!r}")
    seen = [value for ys in lines.values() for value in ys if value is not None]
    if not seen:
        return figure(title, note, None, "No values.", None)
    least, most = min(seen), max(seen)
    low = (0.0 if 0 <= least <= 0.6 * most else least) if low is None else low
    high = most if high is None else high
    ticks = round_ticks(low, high if high > low else low + (abs(low) or 1))
    x = scale(at[0], at[-1] if at[-1] > at[0] else at[0] + 1, LEFT, WIDTH - RIGHT)
    y = scale(min(low, ticks[0]), max(high, ticks[-1]), HEIGHT - BOTTOM, TOP)
    drawn = [y_axis(y, ticks, y_format), x_axis(x, round_ticks(at[0], at[-1]), x_format, x_label)]
    for number, (name, ys) in enumerate(lines.items()):
        drawn += _curve(name, number, at, ys, x, y)
    words = "; ".join(_course(name, ys, y_format) for name, ys in lines.items())
    rows = [
        (x_format(value), *("–" if ys[row] is None else y_format(ys[row] or 0.0) for ys in lines.values()))
        for row, value in enumerate(at)
    ]
    names = table([x_label or "x", *lines], rows, numeric=range(1 + len(lines)))
    keys = _names_of_lines(lines) if len(lines) > 1 else None
    return figure(title, note, joined([keys, svg(drawn, HEIGHT, f"{title}: {words}")]), words, names)


def _curve(
    name: str,
    number: int,
    at: Sequence[float],
    ys: Sequence[float | None],
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> list[Html]:
    path, points, is_down = [], [], False
    for value, height in zip(at, ys, strict=True):
        if height is None:
            is_down = False
            continue
        path.append(f"{'L' if is_down else 'M'}{x(value):.1f} {y(height):.1f}")
        points.append((x(value), y(height)))
        is_down = True
    kind = f"curve stroke-{number + 1}"
    drawn = [element("path", element("title", name), d=" ".join(path), class_=kind, stroke_dasharray=_DASHES[number])]
    if len(points) <= 30:
        drawn += [
            element("circle", cx=round(a, 1), cy=round(b, 1), r=2.5, class_=f"fill-{number + 1}") for a, b in points
        ]
    return drawn


def _course(name: str, ys: Sequence[float | None], y_format: Callable[[float], str]) -> str:
    seen = [value for value in ys if value is not None]
    if not seen:
        return f"{name} has no values"
    return f"{name} from {y_format(seen[0])} to {y_format(seen[-1])}, at most {y_format(max(seen))}"


def _names_of_lines(lines: Mapping[str, object]) -> Html:
    items = []
    for number, name in enumerate(lines):
        sample = element(
            "svg",
            element("path", d="M1 6H27", class_=f"curve stroke-{number + 1}", stroke_dasharray=_DASHES[number]),
            viewBox="0 0 28 12",
            class_="sample",
            aria_hidden="true",
        )
        items.append(element("li", sample, " ", name))
    return element("ul", *items, class_="key")
