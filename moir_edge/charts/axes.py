"""Parts that the charts of every page share: measures, axes, row names and labels."""

from __future__ import annotations

from moir_edge.charts.svg import SERIES, Scale, element, escaped

__all__ = [
    "AXIS",
    "LEFT",
    "RIGHT",
    "WIDTH",
    "grid_x",
    "grid_y",
    "label",
    "line",
    "row_name",
    "series",
]

WIDTH = 640
"""Width of a chart in pixels of its own view box."""
LEFT = 166
"""Room for the names of rows."""
RIGHT = 24
"""Room at the right edge."""
AXIS = 48
"""Room below for ticks and caption."""


def grid_x(x: Scale, top: float, bottom: float, unit: str) -> str:
    """Return upright lines at the ticks of a scale, with their figures below."""
    lines = []
    for tick in x.ticks():
        lines.append(line(x(tick), top, x(tick), bottom, "grid"))
        lines.append(label(x(tick), bottom + 19, f"{tick:g}" + (" %" if unit == "%" else "")))
    return element("g", *lines, aria_hidden="true")


def grid_y(y: Scale, left: float, right: float, *, base: float) -> str:
    """Return level lines at the ticks of a scale, with their figures on the left; the one at `base` is dashed."""
    lines = []
    for tick in y.ticks():
        lines.append(line(left, y(tick), right, y(tick), "base" if tick == base else "grid"))
        lines.append(label(left - 8, y(tick) + 4, f"{tick:g}", anchor="end"))
    return element("g", *lines, aria_hidden="true")


def row_name(middle: float, name: str, detail: str) -> str:
    """Return the two lines of text that stand left of a row."""
    return label(LEFT - 12, middle - 2, _short(name), anchor="end", strong=True) + label(
        LEFT - 12, middle + 15, detail, anchor="end"
    )


def series(at: int) -> str:
    """Return the CSS class of a candidate's colour."""
    return f"s{at % SERIES}"


def _short(name: str, length: int = 18) -> str:
    return name if len(name) <= length else f"…{name[1 - length :]}"


def line(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    """Return a straight line with a CSS class."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=f"line {name}")


def label(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "middle",
    rotate: bool = False,
    strong: bool = False,
) -> str:
    """Return a text at a point."""
    return element(
        "text",
        escaped(text),
        x=x,
        y=y,
        text_anchor=anchor,
        class_="strong" if strong else None,
        transform=f"rotate(-90 {x:.0f} {y:.0f})" if rotate else None,
    )
