"""Drawings as SVG files that stand alone: colours inside, light and dark."""

from __future__ import annotations

__all__ = ["stand_alone"]

_STYLE = """<style>
text { font: 14px system-ui, sans-serif; fill: #56616f; } text.strong { fill: #16202c; font-weight: 600; }
.grid { stroke: #e6eaef; } .base { stroke: #56616f; stroke-dasharray: 4 4; } .line { stroke-width: 1; } .line[class*=" s"] { stroke-width: 2; }
.s0 { --c: #0b62b8; } .s1 { --c: #b8500b; } .s2 { --c: #0b7a6f; } .line[class*=" s"] { stroke: var(--c); } .mark { fill: var(--c); }
@media (prefers-color-scheme: dark) { text { fill: #a3afbd; } text.strong { fill: #e8edf3; } .grid { stroke: #27313d; }
.s0 { --c: #62aef7; } .s1 { --c: #f2a05e; } .s2 { --c: #4fcabb; } }
</style>"""


def stand_alone(drawing: str) -> str:
    """Return a drawing of `moir_edge.evaluation.report` as a file: with its namespace and style."""
    head, tag, rest = drawing.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg"{tag}{_STYLE}{rest}\n'
