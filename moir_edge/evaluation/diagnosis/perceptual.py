"""Perceptual scores: how much a model loses when the images, or the words, are those of another row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moir_edge.evaluation.diagnosis.schema import Perceptual
from moir_edge.evaluation.diagnosis.values import ValueTable

__all__ = ["FULL", "IMAGE_PERMUTED", "TEXT_PERMUTED", "alone", "perceptual_scores", "relative_fall"]

FULL, IMAGE_PERMUTED, TEXT_PERMUTED = "full", "image permuted", "text permuted"

Floats = NDArray[np.float64]


def perceptual_scores(table: ValueTable, scope: str, rows: int) -> Perceptual:
    """Return (score − score with the modality permuted) / score for images and for text.

    Args:
        table: Scores under `FULL`, `IMAGE_PERMUTED` and `TEXT_PERMUTED` of the rows that could be permuted.
        scope: A task, or all of them.
        rows: How many rows of that scope the table holds.

    Source: Gat, Schwartz and Schwing 2021 (arXiv 2110.14375), normalised by the model's own accuracy.
    """
    image = table.figure(scope, (FULL, IMAGE_PERMUTED), relative_fall)
    text = table.figure(scope, (FULL, TEXT_PERMUTED), relative_fall)
    reason = None if image else "the full score is 0, so there is no fall to measure"
    return Perceptual(rows=rows, image=image, text=text, reason=reason)


def alone() -> Perceptual:
    """Return the scores of rows that have no other row to be permuted with."""
    return Perceptual(
        rows=0,
        image=None,
        text=None,
        reason="permuting needs two rows of one task with equally many images; give more rows",
    )


def relative_fall(means: Floats) -> Floats:
    """Return (full − permuted) / full; (full and permuted, samples) mean scores -> (samples,)."""
    full, permuted = means
    defined = full > 0
    return np.where(defined, (full - permuted) / np.where(defined, full, 1.0), np.nan)
