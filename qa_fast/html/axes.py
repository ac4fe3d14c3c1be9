"""What charts are drawn with: a figure, scales, axes, and the few shapes of SVG that they need."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from qa_fast.html.elements import details
from qa_fast.html.markup import Html, element

WIDTH, HEIGHT = 440, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 14, 40


def short(value: float) -> str:
    """A number in few characters, for an axis: 1500 is 1.5k."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{sign}"
    return f"{value:.3g}"


def percent(value: float) -> str:
    """A share as people read it."""
    return f"{100 * value:.3g} %"


def figure(title: str, note: str, picture: Html | None, words: str, numbers: Html | None) -> Html:
    """A chart with its title, a quiet line, what it shows in words, and its numbers folded below."""
    caption = element("figcaption", title, element("span", note, class_="quiet") if note else None)
    folded = details("Numbers", element("p", f"{words}.", class_="quiet"), numbers) if numbers else None
    shown = picture or element("p", words, class_="quiet")
    return element("figure", caption, shown, folded)


def svg(parts: Iterable[Html], height: float, label: str) -> Html:
    """A picture, WIDTH units wide and `height` high; the label is for those who cannot see it."""
    return element("svg", *parts, viewBox=f"0 0 {WIDTH} {height:g}", role="img", aria_label=label)


def finite(value: float | None) -> float | None:
    """The number, or None where it is none."""
    return float(value) if value is not None and math.isfinite(value) else None


def shortened(text: str, longest: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= longest else text[: max(longest - 1, 1)] + "…"


def scale(low: float, high: float, begin: float, end: float) -> Callable[[float], float]:
    """From values between `low` and `high` to places between `begin` and `end`."""
    size = (high - low) or 1.0
    return lambda value: begin + (value - low) / size * (end - begin)


def round_ticks(low: float, high: float, is_whole: bool = False, wanted: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about as many as are wanted; whole ones where values are whole."""
    rough = (high - low) / wanted
    if not rough > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(times for times in (1, 2, 2.5, 5, 10) if times * power >= rough * 0.999)
    if is_whole:
        step = 5.0 if step == 2.5 else max(step, 1.0)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(step * number, 12) for number in range(first, last + 1)] or [low]


def y_axis(y: Callable[[float], float], ticks: Sequence[float], written: Callable[[float], str]) -> Html:
    """Rules across the picture, with their numbers to the left."""
    parts = []
    for tick in ticks:
        parts.append(stroke(LEFT, y(tick), WIDTH - RIGHT, y(tick), "rule"))
        parts.append(writing(LEFT - 7, y(tick) + 4, written(tick), "end"))
    return element("g", *parts)


def x_axis(
    x: Callable[[float], float],
    ticks: Sequence[float],
    written: Callable[[float], str],
    label: str,
    left: float = LEFT,
    height: float = HEIGHT,
) -> Html:
    """The axis below, with its numbers and what they are."""
    base = height - BOTTOM
    parts = [stroke(left, base, WIDTH - RIGHT, base, "axis")]
    for tick in ticks:
        parts.append(stroke(x(tick), base, x(tick), base + 4, "axis"))
        parts.append(writing(x(tick), base + 16, written(tick), "middle"))
    parts.append(writing((left + WIDTH - RIGHT) / 2, height - 6, shortened(label, 64), "middle"))
    return element("g", *parts)


def rectangle(x: float, y: float, width: float, height: float, series: int | str, says: str) -> Html:
    """A bar in the colour of a series; it says what it is when pointed at."""
    return element(
        "rect", element("title", says), x=round(x, 1), y=round(y, 1), width=round(width, 1), height=round(height, 1),
        class_=f"fill-{series}",
    )  # fmt: skip


def stroke(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    """A straight line; kinds are classes of the style sheet."""
    return element("line", x1=round(x1, 1), y1=round(y1, 1), x2=round(x2, 1), y2=round(y2, 1), class_=kind)


def writing(x: float, y: float, text: str, anchor: str, kind: str | None = None) -> Html:
    """A text at a place; anchor is start, middle or end."""
    return element("text", text, x=round(x, 1), y=round(y, 1), text_anchor=anchor, class_=kind)
