"""Routing map of one prompt in readable form: token, word, image cell, sources."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from moir_edge.bundle.manifest import ImageGrid, ModelFacts
from moir_edge.runtime.image_geometry import Box
from moir_edge.runtime.image_processor import View
from moir_edge.runtime.interface import RouterArrays
from moir_edge.runtime.processor import EncodedPrompt, ModelInputs

__all__ = ["Cell", "RoutedToken", "RoutingMap", "Source", "routing_maps"]

Side = Literal["image", "text"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The part of an image that one image token stands for.

    Attributes:
        image: Which image of the prompt, from 0.
        view: ``"whole"``, ``"tile"``, ``"global"`` or ``"crop"``.
        tile_row: Row of the tile in a split image.
        tile_column: Column of the tile in a split image.
        row: Row in the view's grid.
        column: Column in the view's grid.
        box: (left, top, right, bottom) in the upright image, as fractions of its size.
    """

    image: int
    view: str
    tile_row: int
    tile_column: int
    row: int
    column: int
    box: Box


@dataclass(frozen=True, kw_only=True)
class Source:
    """A token that information was taken from; `word` for text, `cell` for image tokens."""

    side: Side
    position: int
    word: str | None = None
    cell: Cell | None = None


@dataclass(frozen=True, kw_only=True)
class RoutedToken:
    """One token that the router enriched.

    Attributes:
        side: The side it is on.
        position: Its place in the prompt, padding not counted.
        word: The word it belongs to (text).
        cell: The part of the image it stands for (image; None for a class token).
        score: Information density in [0, 1]; low is weak (`channel`: share of its energy that it keeps; `gate`: weight of
            its own modality).
        gate: How strongly it was enriched, above 0.
        margin: Similarity of the best source minus that of the runner-up.
        sources: Where the information came from, the best first; empty where a `channel` or `gate` router took the mean
            of the other modality.
    """

    side: Side
    position: int
    word: str | None
    cell: Cell | None
    score: float
    gate: float
    margin: float
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class RoutingMap:
    """The router's work on one prompt; arrays over its T candidate tokens, image tokens first.

    Attributes:
        prompt: The prompt.
        grid: How the image tokens of one view lie on it.
        image_tokens: How many of the T candidates are image tokens.
        positions: (T,) int64, places in the prompt, padding not counted.
        scores: (T,) float32, information density in [0, 1], or what `RoutedToken.score` says for other kinds.
        indices: (T, k) int64, places of the sources, -1 where none.
        margin: (T,) float32, best minus runner-up similarity.
        gate: (T,) float32, 0 for tokens that were not routed.
        dropped: (image_tokens,) bool, True for image tokens that the language model did not read; None where it read all.
    """

    prompt: EncodedPrompt
    grid: ImageGrid
    image_tokens: int
    positions: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    indices: npt.NDArray[np.int64]
    margin: npt.NDArray[np.float32]
    gate: npt.NDArray[np.float32]
    dropped: npt.NDArray[np.bool_] | None = None

    @cached_property
    def routed(self) -> tuple[RoutedToken, ...]:
        """The tokens that were enriched, image tokens first."""
        return tuple(self._routed(int(row)) for row in np.flatnonzero(self.gate > 0))

    @property
    def names_sources(self) -> bool:
        """Whether tokens took from single tokens (`token`), not from the other modality's mean (`channel`, `gate`)."""
        return not len(self.routed) or bool((self.indices >= 0).any())

    def cell(self, position: int) -> Cell | None:
        """Return what the image token at a place in the prompt shows; None for other tokens."""
        ordinal = self._image_ordinals.get(position)
        if ordinal is None:
            return None
        image, view, token = self._view_of(ordinal)
        place = self._place(view, token)
        if place is None:
            return None
        row, column, size = place
        return Cell(
            image=image,
            view=view.kind,
            tile_row=view.row,
            tile_column=view.column,
            row=row,
            column=column,
            box=_part_of(view.box, row, column, size),
        )

    def _view_of(self, ordinal: int) -> tuple[int, View, int]:
        """Return the image, the view and the place in it of an image token, counted over all images."""
        at = bisect_right(self._starts, ordinal) - 1
        image, view = self._views[at]
        return image, view, ordinal - self._starts[at]

    def _place(self, view: View, token: int) -> tuple[int, int, tuple[float, float]] | None:
        """Return row, column and size (height, width, fractions of the view) of a token's cell; None if it has none."""
        if view.grid is None:
            place = token + self.grid.first
            if place < 0:  # a class token stands before the grid
                return None
            return (*divmod(place, self.grid.side), (self.grid.cell, self.grid.cell))
        rows, columns = view.grid
        row, column = divmod(token, columns + view.newline)
        return None if column == columns else (row, column, (1 / rows, 1 / columns))

    def word(self, position: int) -> str:
        """Return the word of the prompt that the token at a place belongs to."""
        text = self.prompt.expanded
        start, end = self.prompt.offsets[position]
        token = text[start:end]
        if not token.strip():
            return token
        start += len(token) - len(token.lstrip())
        end -= len(token) - len(token.rstrip())
        low, high = self._bounds(position)
        while start > low and not text[start - 1].isspace():
            start -= 1
        while end < high and not text[end].isspace():
            end += 1
        return text[start:end].strip(".,;:!?\"'()[]") or text[start:end]

    def cells(self) -> Iterator[tuple[int, Cell]]:
        """Yield (row of the arrays, cell) for every image token that has one."""
        for row in range(self.image_tokens):
            cell = self.cell(int(self.positions[row]))
            if cell is not None:
                yield row, cell

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        image, text = slice(None, self.image_tokens), slice(self.image_tokens, None)
        return {
            "prompt": self.prompt.text,
            "image_tokens": self.image_tokens,
            "text_tokens": len(self.positions) - self.image_tokens,
            "tokens_per_tile": self.grid.tokens,
            "images": [[asdict(view) for view in views] for views in self.prompt.images],
            "image_scores": _rounded(self.scores[image]),
            "dropped": [] if self.dropped is None else np.flatnonzero(self.dropped).tolist(),
            "text_scores": [
                {"position": int(position), "word": self.word(int(position)), "score": score}
                for position, score in zip(
                    self.positions[text], _rounded(self.scores[text]), strict=True
                )
            ],
            "routed": [_without_none(asdict(token)) for token in self.routed],
        }

    def _routed(self, row: int) -> RoutedToken:
        position = int(self.positions[row])
        own = self._source(position)
        return RoutedToken(
            side=own.side,
            position=position,
            word=own.word,
            cell=own.cell,
            score=float(self.scores[row]),
            gate=float(self.gate[row]),
            margin=float(self.margin[row]),
            sources=tuple(self._source(int(at)) for at in self.indices[row] if at >= 0),
        )

    def _source(self, position: int) -> Source:
        if position in self._image_ordinals:
            return Source(side="image", position=position, cell=self.cell(position))
        return Source(side="text", position=position, word=self.word(position))

    @cached_property
    def _image_ordinals(self) -> dict[int, int]:
        places = self.positions[: self.image_tokens]
        return {int(position): ordinal for ordinal, position in enumerate(places)}

    @cached_property
    def _views(self) -> list[tuple[int, View]]:
        return [(index, view) for index, views in enumerate(self.prompt.images) for view in views]

    @cached_property
    def _starts(self) -> list[int]:
        """The first image token of each view, counted over all images."""
        counts = [self.grid.tokens if view.grid is None else view.tokens for _, view in self._views]
        return [0, *accumulate(counts)][:-1]

    def _bounds(self, position: int) -> tuple[int, int]:
        """Return the characters between the nearest tokens that do not belong to the user's text."""
        text_places = set(self.positions[self.image_tokens :].tolist())
        before, after = position, position
        while before - 1 in text_places:
            before -= 1
        while after + 1 in text_places:
            after += 1
        return self.prompt.offsets[before][0], self.prompt.offsets[after][1]


def routing_maps(
    facts: ModelFacts,
    inputs: ModelInputs,
    arrays: RouterArrays,
    dropped: Sequence[npt.NDArray[np.int64]] | None = None,
) -> tuple[RoutingMap, ...]:
    """Split the router's outputs of a batch into one map per row, with padding removed.

    Args:
        facts: What the manifest says of the model.
        inputs: The encoded batch.
        arrays: What the router did.
        dropped: Per row, the places in the padded prompt of image tokens that were dropped; None for none.
    """
    width = inputs.input_ids.shape[1]
    images = arrays.image_positions.shape[1]
    maps = []
    for row, prompt in enumerate(inputs.prompts):
        padding = width - len(prompt.ids)
        valid = np.concatenate([arrays.image_positions[row] >= 0, arrays.text_mask[row]])
        places = np.concatenate([arrays.image_positions[row], arrays.text_positions[row]])
        sources = arrays.indices[row][valid]
        image_places = places[:images][valid[:images]]
        gone = np.zeros(0, np.int64) if dropped is None else dropped[row]
        maps.append(
            RoutingMap(
                prompt=prompt,
                grid=facts.grid,
                image_tokens=int(valid[:images].sum()),
                positions=places[valid] - padding,
                scores=arrays.scores[row][valid],
                indices=np.where(sources >= 0, sources - padding, -1),
                margin=arrays.margin[row][valid],
                gate=arrays.gate[row][valid],
                dropped=np.isin(image_places, gone) if len(gone) else None,
            )
        )
    return tuple(maps)


def _part_of(box: Box, row: int, column: int, cell: tuple[float, float]) -> Box:
    """Return one cell of a view's box; `cell` is its height and width as fractions of the view's."""
    width, height = (box[2] - box[0]) * cell[1], (box[3] - box[1]) * cell[0]
    left, top = box[0] + column * width, box[1] + row * height
    return left, top, left + width, top + height


def _rounded(values: npt.NDArray[np.float32]) -> list[float]:
    return [round(float(value), 5) for value in values]


def _without_none(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _without_none(value) for key, value in data.items() if value is not None}
    if isinstance(data, list | tuple):
        return [_without_none(value) for value in data]
    return data
