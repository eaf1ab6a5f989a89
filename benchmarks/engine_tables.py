"""The engine matrix as tables of a page: what was built, what was refused, and how far the memory estimate was off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.common import markdown_table

__all__ = ["EngineRow", "Refusal", "render_tables"]


@dataclass(frozen=True, kw_only=True)
class EngineRow:
    """One engine that was built; memory is that of its process, at its peak and as estimated beforehand."""

    model: str
    target: str
    precision: str
    component: str
    weight_bytes: int
    engine_bytes: int
    seconds: float
    peak_memory_bytes: int
    estimated_memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A precision that a target, or its builder, does not take, and why."""

    model: str
    target: str
    precision: str
    reason: str


def render_tables(built: Sequence[EngineRow], refused: Sequence[Refusal]) -> str:
    """Return the tables as Markdown.

    Args:
        built: One row per target and precision, its components in the columns, then the totals.
        refused: Listed below.
    """
    components = list(dict.fromkeys(row.component for row in built))
    names = ["target", "precision", *components, "all, MB", "time, s", "peak, MB", "estimate"]
    groups: dict[tuple[str, str], list[EngineRow]] = {}
    for row in built:
        groups.setdefault((row.target, row.precision), []).append(row)
    lines = [
        markdown_table(
            names, [(*pair, *_figures(rows, components)) for pair, rows in groups.items()]
        )
    ]
    if refused:
        lines += ["", "Refused:", ""]
        lines += [f"- {row.target}, {row.precision}: {row.reason}" for row in refused]
    return "\n".join(lines)


def _figures(rows: Sequence[EngineRow], components: Sequence[str]) -> list[str]:
    sizes = {row.component: row.engine_bytes for row in rows}
    # Components are built one after the other: the largest peak is the bundle's.
    worst = max(rows, key=lambda row: row.peak_memory_bytes)
    off = 100 * (worst.estimated_memory_bytes / worst.peak_memory_bytes - 1)
    return [
        *(f"{sizes[name] / 1e6:.2f}" if name in sizes else "–" for name in components),
        f"{sum(sizes.values()) / 1e6:.2f}",
        f"{sum(row.seconds for row in rows):.1f}",
        f"{worst.peak_memory_bytes / 1e6:.0f}",
        f"{off:+.0f} %",
    ]
