"""A chart of rows with one dot and interval per candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moir_edge.charts.axes import AXIS, LEFT, RIGHT, WIDTH, grid_x, label, line, row_name, series
from moir_edge.charts.svg import Scale, draw, marker

__all__ = ["Dot", "DotRow", "dot_chart"]

ROW = 46
_TOP = 10


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A figure of one candidate with its interval; `tip` says it in words."""

    series: int
    value: float
    low: float
    high: float
    tip: str


@dataclass(frozen=True, kw_only=True)
class DotRow:
    """Row of a chart: name, second line of text, and a dot per candidate, None without a figure."""

    name: str
    detail: str
    dots: tuple[Dot | None, ...]


def dot_chart(
    title: str,
    rows: Sequence[DotRow],
    span: tuple[float, float],
    *,
    base: float | None,
    caption: str,
    unit: str = "%",
) -> str:
    """Draw the rows.

    Args:
        title: What a screen reader announces.
        rows: At least one, all with equally many dots.
        span: Ends of the axis.
        base: Where a dashed line stands, or None.
        caption: Text under the axis.
        unit: Written behind the ticks.
    """
    band = max(ROW, 20 * len(rows[0].dots) + 14)
    height = band * len(rows) + AXIS + _TOP
    x = Scale(*span, LEFT, WIDTH - RIGHT)
    parts = [grid_x(x, _TOP, height - AXIS, unit)]
    if base is not None:
        parts.append(line(x(base), _TOP, x(base), height - AXIS, "base"))
    for at, row in enumerate(rows):
        top = _TOP + band * at
        parts.append(row_name(top + band * 0.5, row.name, row.detail))
        for slot, dot in enumerate(row.dots):
            if dot is not None:
                y = top + band * (slot + 1) / (len(row.dots) + 1)
                parts.append(line(x(dot.low), y, x(dot.high), y, series(dot.series)))
                parts.append(marker(dot.series, x(dot.value), y, 5.5, dot.tip))
    parts.append(label((LEFT + WIDTH) / 2, height - 6, caption))
    described = [dot.tip for row in rows for dot in row.dots if dot is not None]
    return draw(title, "; ".join(described), WIDTH, height, *parts)
