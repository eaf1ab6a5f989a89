"""A few SVG helpers: elements, scales and axis ticks. Colours are CSS classes of the page, so themes apply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from moir_edge.printable import printable

__all__ = ["SERIES", "Scale", "draw", "element", "escaped", "marker", "padded_range", "time_scale"]

SERIES = 8
"""Colours in the page's palette; candidates beyond them start over."""

_MARKERS = 4
_FAR_APART = 6
_MOST_TICKS = 7


def element(name: str, *children: str, **attributes: object) -> str:
    """Return an element; children are markup, attribute names take `_` for `-` and a trailing `_` for keywords."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(_plain(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{''.join(children)}</{name}>"


def draw(title: str, description: str, width: int, height: int, *children: str) -> str:
    """Return a whole drawing that a screen reader announces by title and description."""
    return element(
        "svg",
        element("title", escaped(title)),
        element("desc", escaped(description)),
        *children,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=f"{title}. {description}",
    )


@dataclass(frozen=True)
class Scale:
    """Maps figures in [low, high] to pixels in [start, end], linearly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a figure; figures beyond the range stay at its edge."""
        inside = min(max(value, self.low), self.high)
        low, high, at = (self._place(figure) for figure in (self.low, self.high, inside))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return round figures inside the range."""
        return (_log_ticks if self.logarithmic else _even_ticks)(self.low, self.high)

    def _place(self, value: float) -> float:
        return math.log(value) if self.logarithmic else value


def time_scale(times: Sequence[float], start: float, end: float) -> Scale:
    """Return a scale from 0 for times of one magnitude, a logarithmic one for times that lie far apart.

    Args:
        times: Times above 0.
        start: Pixel of the low end.
        end: Pixel of the high end.
    """
    low, high = min(times), max(times)
    if high > _FAR_APART * low:
        return Scale(low / 1.3, high * 1.3, start, end, logarithmic=True)
    return Scale(0.0, high * 1.1, start, end)


def padded_range(values: Sequence[float], share: float = 0.12) -> tuple[float, float]:
    """Return the range of the values, widened at both ends by a share of it."""
    low, high = min(values), max(values)
    room = (high - low) * share or max(abs(high) * share, 1.0)
    return low - room, high + room


def _even_ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**power for power in powers for step in steps]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= _MOST_TICKS:
            break
    return inside


def marker(series: int, x: float, y: float, size: float, title: str) -> str:
    """Return the marker of a series; shapes differ, so that colour is not needed to tell them apart."""
    tip = element("title", escaped(title))
    name = f"mark s{series % SERIES}"
    shape = series % _MARKERS
    if shape == 0:
        return element("circle", tip, class_=name, cx=x, cy=y, r=size)
    if shape == 1:
        side = size * 1.8
        return element(
            "rect", tip, class_=name, x=x - side / 2, y=y - side / 2, width=side, height=side
        )
    tall = size * 1.3
    points = {
        2: [(0, -tall), (tall, 0), (0, tall), (-tall, 0)],
        3: [(0, -tall), (tall, tall * 0.8), (-tall, tall * 0.8)],
    }[shape]
    text = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in points)
    return element("polygon", tip, class_=name, points=text)


def escaped(text: str) -> str:
    """Return a text as SVG and HTML spell it, in an attribute too; XML has no control characters, so they are spelled."""
    return escape(printable(text), quote=True)


def _plain(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
