"""The engine matrix as tables of a page: what was built, what was refused, and how far the memory estimate was off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moir_edge.errors import DataError

__all__ = ["EngineRow", "Refusal", "render_tables", "write_tables"]


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


def write_tables(
    page: Path, model: str, built: Sequence[EngineRow], refused: Sequence[Refusal]
) -> None:
    """Replace a model's tables in a page, which stand between two comments.

    Args:
        page: The Markdown file.
        model: Names the comments, ``<!-- engines:demo -->`` and ``<!-- /engines:demo -->``.
        built: Engines.
        refused: Refusals.

    Raises:
        DataError: The page has no such comments.
    """
    first, last = f"<!-- engines:{model} -->", f"<!-- /engines:{model} -->"
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    if first not in text or last not in text:
        raise DataError(f"{page} has no {first} … {last} to write the tables between")
    before, after = text.split(first)[0], text.split(last)[1]
    tables = render_tables(built, refused)
    page.write_text(f"{before}{first}\n{tables}\n{last}{after}", encoding="utf-8")


def render_tables(built: Sequence[EngineRow], refused: Sequence[Refusal]) -> str:
    """Return the tables as Markdown.

    Args:
        built: One row per target and precision, its components in the columns, then the totals.
        refused: Listed below.
    """
    components = list(dict.fromkeys(row.component for row in built))
    names = ["target", "precision", *components, "all, MB", "time, s", "peak, MB", "estimate"]
    lines = [_cells(names), _cells(["---"] * len(names))]
    for target, precision in dict.fromkeys((row.target, row.precision) for row in built):
        rows = [row for row in built if (row.target, row.precision) == (target, precision)]
        lines.append(_cells([target, precision, *_figures(rows, components)]))
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


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
