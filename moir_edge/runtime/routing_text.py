"""A routing map as text: a grid of strengths for each view of an image, and the sources of the strongest tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from moir_edge.runtime.routing import Cell, RoutedToken, RoutingMap, Source

__all__ = ["routing_lines"]

_NONE, _SOURCE = "·", "o"
_MOST_TOKENS = 12
_MOST_SOURCES = 3
_WIDEST_SPACED = 40  # columns; wider grids go without blanks between their cells


def routing_lines(found: RoutingMap) -> list[str]:
    """Return the lines of a routing map.

    A cell shows how strongly the router enriched it, from 1 to 9 tenths; ``o`` stands for the best source of another token,
    a dot for the rest.

    Args:
        found: The map of one prompt.
    """
    routed = sorted(found.routed, key=lambda one: -one.gate)
    if not routed:
        return ["the router enriched no token"]
    return [*_grids(found), *_tokens(routed, names_sources=found.names_sources)]


def _grids(found: RoutingMap) -> Iterator[str]:
    """Give a title and the rows of each view; views in which nothing happened are one line."""
    best = {token.sources[0].position for token in found.routed if token.sources}
    views: dict[tuple[int, str, int, int], dict[tuple[int, int], str]] = defaultdict(dict)
    for row, cell in found.cells():
        key = (cell.image, cell.view, cell.tile_row, cell.tile_column)
        mark = _mark(float(found.gate[row]), source=int(found.positions[row]) in best)
        views[key][cell.row, cell.column] = mark
    for key, marks in views.items():
        sources = sum(mark == _SOURCE for mark in marks.values())
        enriched = sum(mark.isdigit() for mark in marks.values())
        yield f"{_view(*key)}: {enriched} of {len(marks)} cells enriched, {sources} others best sources"
        if enriched or sources:
            yield from _grid(marks)


def _grid(marks: dict[tuple[int, int], str]) -> Iterator[str]:
    """Give the rows of a view, with a blank where it has no cell."""
    rows = max(row for row, _ in marks) + 1
    columns = max(column for _, column in marks) + 1
    gap = " " if columns <= _WIDEST_SPACED else ""
    for row in range(rows):
        yield "  " + gap.join(marks.get((row, column), " ") for column in range(columns)).rstrip()


def _mark(gate: float, *, source: bool) -> str:
    if gate > 0:
        return str(min(9, max(1, round(10 * gate))))
    return _SOURCE if source else _NONE


def _tokens(routed: list[RoutedToken], *, names_sources: bool) -> Iterator[str]:
    for token in routed[:_MOST_TOKENS]:
        sources = ", ".join(_source(one) for one in token.sources[:_MOST_SOURCES])
        origin = sources if names_sources else "the mean of the other side"
        yield f"  {token.gate:.2f}  {_name(token.word, token.cell)} ← {origin}"
    if len(routed) > _MOST_TOKENS:
        yield f"  and {len(routed) - _MOST_TOKENS} weaker ones"


def _source(source: Source) -> str:
    return _name(source.word, source.cell)


def _name(word: str | None, cell: Cell | None) -> str:
    if word is not None:
        return f'"{word}"'
    if cell is None:
        return "the class token"
    view = _view(cell.image, cell.view, cell.tile_row, cell.tile_column)
    return f"{view} row {cell.row + 1} column {cell.column + 1}"


def _view(image: int, view: str, tile_row: int, tile_column: int) -> str:
    """Return the name of a view, counted from 1."""
    if view == "tile":
        return f"image {image + 1} tile {tile_row + 1}-{tile_column + 1}"
    return f"image {image + 1}" if view == "whole" else f"image {image + 1} {view}"
