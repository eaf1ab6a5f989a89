"""Look-ups of a router that point at the right source: from words that name an object to its cells, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moir_edge.demo.named import NamedObject
from moir_edge.metrics import Interval, ratio_interval
from moir_edge.runtime import RoutingMap

__all__ = ["LookupFigures", "object_cells", "score_lookups"]


@dataclass(frozen=True, kw_only=True)
class LookupFigures:
    """Look-ups of one side on rows whose object is known.

    Attributes:
        lookups: Enriched tokens that belong to the object: words that name it, or cells that show it.
        hits: Share of them whose best source belongs to the object on the other side; None without look-ups.
        chance: Share that sources drawn at random would hit on the same rows; None without look-ups.
        times_chance: Hits over chance, with an interval over rows; None without look-ups.
    """

    lookups: int
    hits: float | None
    chance: float | None
    times_chance: Interval | None

    def record(self) -> dict[str, Any]:
        """Return the figures as plain JSON data."""
        times = self.times_chance
        return {
            "lookups": self.lookups,
            "hits": self.hits,
            "chance": self.chance,
            "times_chance": None if times is None else times.model_dump(),
        }


def score_lookups(
    maps: Sequence[tuple[RoutingMap, NamedObject]],
) -> tuple[LookupFigures, LookupFigures]:
    """Score the best source of every token that belongs to a row's object.

    Args:
        maps: Routing map and object of each row.

    Returns:
        Words that looked into the image, and image tokens that looked into the text.
    """
    rows = [_row_hits(routing, named) for routing, named in maps]
    words, cells = ([row[side] for row in rows] for side in (0, 1))
    return _figures(words), _figures(cells)


def object_cells(routing: RoutingMap, named: NamedObject) -> set[int]:
    """Return the positions of the image tokens whose cell has its centre in the object's box."""
    left, top, right, bottom = named.box
    found = set()
    for row, cell in routing.cells():
        x, y = (cell.box[0] + cell.box[2]) / 2, (cell.box[1] + cell.box[3]) / 2
        if cell.image == named.image and left <= x < right and top <= y < bottom:
            found.add(int(routing.positions[row]))
    return found


_Hits = tuple[int, int, float]
"""Look-ups, hits, share of the sources that would be hits."""


def _row_hits(routing: RoutingMap, named: NamedObject) -> tuple[_Hits, _Hits]:
    places = [int(place) for place in routing.positions]
    texts = places[routing.image_tokens :]
    cells = object_cells(routing, named)
    words = {place for place in texts if routing.word(place).lower() in named.words}
    best = {token.position: token.sources[0].position for token in routing.routed if token.sources}

    def hits(targets: set[int], right: set[int], sources: int) -> _Hits:
        found = [best[place] in right for place in targets if place in best]
        return len(found), sum(found), len(right) / sources if sources else 0.0

    shown = sum(1 for _ in routing.cells())
    return hits(words, cells, shown), hits(cells, words, len(texts))


def _figures(rows: Sequence[_Hits]) -> LookupFigures:
    lookups = sum(count for count, *_ in rows)
    if not lookups:
        return LookupFigures(lookups=0, hits=None, chance=None, times_chance=None)
    hits = [float(found) for _, found, _ in rows]
    expected = [count * share for count, _, share in rows]
    return LookupFigures(
        lookups=lookups,
        hits=sum(hits) / lookups,
        chance=sum(expected) / lookups,
        times_chance=ratio_interval(hits, expected),
    )
