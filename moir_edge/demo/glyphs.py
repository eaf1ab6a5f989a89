"""The 1,797 handwritten digits that scikit-learn ships, upscaled once and split so that no image crosses splits."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from moir_edge.errors import DataError, EnvironmentProblem, closest

__all__ = ["GLYPH_CORE", "GLYPH_SIDE", "SPLITS", "Glyphs", "load_glyphs", "split_indices"]

SPLITS = ("train", "val", "test")
_SPLIT_BOUNDS = (0.7, 0.8)
_SPLIT_SEED = 20261122
_UPSCALE = 4
_BORDER = 1
GLYPH_CORE = 8 * _UPSCALE
GLYPH_SIDE = (8 + 2 * _BORDER) * _UPSCALE


@dataclass(frozen=True, kw_only=True)
class Glyphs:
    """All digit images.

    Attributes:
        alpha: (1797, `GLYPH_SIDE`, `GLYPH_SIDE`) float32 in [0, 1]: ink coverage after smooth upscaling; the middle
            `GLYPH_CORE` pixels are the original 8 × 8 image.
        labels: (1797,) int64 in 0..9.
    """

    alpha: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def _read_digits() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise EnvironmentProblem(
            "the demo data needs scikit-learn, which is not installed: pip install 'moir-edge[demo]'"
        ) from error
    bunch: Any = load_digits()
    return bunch.images.astype(np.float32) / 16.0, bunch.target.astype(np.int64)


@functools.lru_cache(maxsize=1)
def load_glyphs() -> Glyphs:
    """Read and upscale every digit (about 0.2 s, cached).

    Raises:
        EnvironmentProblem: scikit-learn is not installed.
    """
    images, labels = _read_digits()
    padded = np.pad(images, ((0, 0), (_BORDER, _BORDER), (_BORDER, _BORDER)))
    side = (GLYPH_SIDE, GLYPH_SIDE)
    large = [
        np.asarray(Image.fromarray(image).resize(side, Image.Resampling.BICUBIC))
        for image in padded
    ]
    return Glyphs(alpha=np.clip(np.stack(large), 0.0, 1.0).astype(np.float32), labels=labels)


@functools.cache
def split_indices(split: str) -> tuple[tuple[int, ...], ...]:
    """Return the digit images of a split: for each digit 0..9, the indices into `Glyphs`.

    The split is stratified by digit (70 % train, 10 % val, 20 % test) and seeded, so it never changes.

    Raises:
        DataError: The split is unknown.
    """
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}: {closest(split, SPLITS)}")
    rng = np.random.default_rng(_SPLIT_SEED)
    labels = load_glyphs().labels
    chosen: list[tuple[int, ...]] = []
    for digit in range(10):
        order = rng.permutation(np.flatnonzero(labels == digit))
        first, second = (round(bound * len(order)) for bound in _SPLIT_BOUNDS)
        part = {"train": order[:first], "val": order[first:second], "test": order[second:]}[split]
        chosen.append(tuple(int(index) for index in part))
    return tuple(chosen)
