"""Densities and sources of a router against what the cells of an image show.

A cell of a demo image *has a digit* where one of its pixels is brighter than any background of the demo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from moir_edge.errors import DataError
from moir_edge.metrics.ranking import auroc, pearson, spearman
from moir_edge.runtime import RoutingMap
from moir_edge.runtime.image_geometry import Box

__all__ = ["DensityFigures", "Pair", "RankFigures", "has_digit", "measure", "measure_ranks"]

# Backgrounds stay under 85 of 255 in every channel, and the brightest channel of each digit's colour is over 160.
_BRIGHT = 120
_CHANGED = 0.9


@dataclass(frozen=True, kw_only=True)
class DensityFigures:
    """Densities and sources of a router over the cells of some rows.

    Attributes:
        cells: Cells of all images.
        digit_share: Share of them that have a digit: what a blind choice of sources would hit.
        on_digits: Mean density of cells with a digit, in [0, 1].
        on_empty: Mean density of the others.
        contrast_correlation: Pearson correlation of density and contrast (standard deviation of the cell's grey levels)
            over all cells; None where one of them is the same everywhere.
        contrast_rank_correlation: Spearman correlation of the same.
        lookups: Enriched words that took from the image.
        best_on_digit: Share of them whose best source has a digit; None without look-ups.
    """

    cells: int
    digit_share: float
    on_digits: float
    on_empty: float
    contrast_correlation: float | None
    contrast_rank_correlation: float | None
    lookups: int
    best_on_digit: float | None


def has_digit(image: Image.Image, box: Box) -> bool:
    """Return whether a cell of a demo image shows a part of a digit."""
    return bool(_pixels(image, box).max() > _BRIGHT)


def measure(maps: Sequence[tuple[RoutingMap, Sequence[Image.Image]]]) -> DensityFigures:
    """Join densities and sources with what the cells show.

    Args:
        maps: Routing maps with the images of their prompts.

    Raises:
        DataError: There is no cell of one of the two kinds.
    """
    density, contrast, digit, best = [], [], [], []
    for routing, images in maps:
        for row, cell in routing.cells():
            pixels = _pixels(images[cell.image], cell.box)
            density.append(float(routing.scores[row]))
            contrast.append(float(pixels.mean(axis=2).std()))
            digit.append(has_digit(images[cell.image], cell.box))
        for token in routing.routed:
            cell_of_best = token.sources[0].cell if token.side == "text" and token.sources else None
            if cell_of_best is not None:
                best.append(has_digit(images[cell_of_best.image], cell_of_best.box))
    scores, marked = np.array(density), np.array(digit, bool)
    if not marked.any() or marked.all():
        raise DataError("the rows hold no cells with a digit or none without; give more rows")
    return DensityFigures(
        cells=len(scores),
        digit_share=float(marked.mean()),
        on_digits=float(scores[marked].mean()),
        on_empty=float(scores[~marked].mean()),
        contrast_correlation=pearson(scores, contrast),
        contrast_rank_correlation=spearman(scores, contrast),
        lookups=len(best),
        best_on_digit=float(np.mean(best)) if best else None,
    )


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One prompt with its images as they are, and with degraded images."""

    clean: RoutingMap
    degraded: RoutingMap
    images: Sequence[Image.Image]
    degraded_images: Sequence[Image.Image]


@dataclass(frozen=True, kw_only=True)
class RankFigures:
    """Densities of clean cells against those of the same cells degraded.

    Attributes:
        cells: Cells with a digit that the degradation changed, in nine of ten pixels or more.
        auroc: How well the density tells these cells, clean, from the same cells degraded.
        ranked: Share of these cells in which the clean one has the higher density.
        auroc_all: As `auroc`, over all changed cells: an empty cell has nothing to lose, so that no density that means
            information tells it from its degraded self.
    """

    cells: int
    auroc: float
    ranked: float
    auroc_all: float


def measure_ranks(pairs: Sequence[Pair]) -> RankFigures:
    """Compare densities of cells before and after a degradation.

    Args:
        pairs: Routing maps of the same prompts, and their images.

    Raises:
        DataError: No cell with a digit was changed.
    """
    clean, degraded, digit = [], [], []
    for pair in pairs:
        before, after = dict(pair.clean.cells()), dict(pair.degraded.cells())
        for row, cell in before.items():
            if after[row] != cell:
                raise DataError("the two routing maps do not show the same cells")
            image = pair.images[cell.image]
            if _is_changed(image, pair.degraded_images[cell.image], cell.box):
                clean.append(float(pair.clean.scores[row]))
                degraded.append(float(pair.degraded.scores[row]))
                digit.append(has_digit(image, cell.box))
    high, low, marked = np.array(clean), np.array(degraded), np.array(digit, bool)
    if not marked.any():
        raise DataError("the degradation changed no cell with a digit; give more rows")
    return RankFigures(
        cells=int(marked.sum()),
        auroc=auroc(high[marked], low[marked]),
        ranked=float((high > low)[marked].mean()),
        auroc_all=auroc(high, low),
    )


def _is_changed(image: Image.Image, degraded: Image.Image, box: Box) -> bool:
    moved = (_pixels(image, box) != _pixels(degraded, box)).any(axis=2)
    return bool(moved.mean() >= _CHANGED)


def _pixels(image: Image.Image, box: Box) -> npt.NDArray[np.float64]:
    """Return the pixels of a cell, (height, width, 3)."""
    sides = (image.width, image.height, image.width, image.height)
    left, top, right, bottom = (round(part * side) for part, side in zip(box, sides, strict=True))
    return np.asarray(image.convert("RGB"), np.float64)[top:bottom, left:right]
