"""Icons as the pictures of the demo's scenes: drawings from six icon fonts, distorted, split by drawing."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from moir_edge.demo.glyphs import GLYPH_CORE, GLYPH_SIDE, SPLITS, Glyphs
from moir_edge.demo.theme import Theme
from moir_edge.errors import DataError, closest

__all__ = ["DRAWINGS", "ICONS", "NAMES", "SIDE", "VARIANTS", "load_icons", "split_icons"]

NAMES = ("anchor", "bell", "car", "cloud", "flag", "heart", "key", "leaf", "moon", "star")
DRAWINGS = Path(__file__).resolve().parent / "drawings.npz"
"""Ink of every drawing, and which of `NAMES` it shows; see README.md beside it for sources and licences."""

SIDE = 48
VARIANTS = 12
"""Pictures that are made of each drawing."""

_MARGIN = SIDE * (GLYPH_SIDE - GLYPH_CORE) // (2 * GLYPH_CORE)
_ROTATION_DEG, _STRETCH, _SHEAR = 14.0, 0.14, 0.14
_SPLIT_BOUNDS = (0.65, 0.8)
_SEED = 20261128


@functools.lru_cache(maxsize=1)
def _read() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    with np.load(DRAWINGS, allow_pickle=False) as stored:
        return stored["drawings"], stored["labels"]


@functools.lru_cache(maxsize=1)
def load_icons() -> Glyphs:
    """Read and distort every drawing: rotated, stretched, sheared (about 0.2 s, cached)."""
    drawings, labels = _read()
    rng = np.random.default_rng(_SEED)
    pictures = [_distorted(drawing, rng) for drawing in drawings for _ in range(VARIANTS)]
    alpha = np.stack(pictures).astype(np.float32) / 255.0
    return Glyphs(alpha=alpha, labels=np.repeat(labels, VARIANTS))


def _distorted(drawing: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return one (`GLYPH_SIDE`, `GLYPH_SIDE`) picture of a drawing."""
    angle = np.deg2rad(rng.uniform(-1, 1) * _ROTATION_DEG)
    wide, high = np.exp(rng.uniform(-1, 1, 2) * _STRETCH)
    shear = rng.uniform(-1, 1) * _SHEAR
    turn = np.array([[np.cos(angle), -np.sin(angle) + shear], [np.sin(angle), np.cos(angle)]])
    matrix = turn * np.array([[wide], [high]])
    canvas = Image.fromarray(np.pad(drawing, _MARGIN))
    middle = (np.array(canvas.size) - 1) / 2
    shift = middle - matrix @ middle
    map_back = (*matrix[0], shift[0], *matrix[1], shift[1])
    warped = canvas.transform(
        canvas.size, Image.Transform.AFFINE, map_back, Image.Resampling.BICUBIC
    )
    small = warped.resize((GLYPH_SIDE, GLYPH_SIDE), Image.Resampling.LANCZOS)
    picture: npt.NDArray[np.uint8] = np.asarray(small)
    return picture


@functools.cache
def split_icons(split: str) -> tuple[tuple[int, ...], ...]:
    """Return the pictures of a split: for each name, the indices into what `load_icons` returns.

    All pictures of one drawing are in one split (about 65 % train, 15 % val, 20 % test of the drawings of a name).

    Raises:
        DataError: The split is unknown.
    """
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}: {closest(split, SPLITS)}")
    rng = np.random.default_rng(_SEED)
    labels = _read()[1]
    chosen = []
    for label in range(len(NAMES)):
        order = rng.permutation(np.flatnonzero(labels == label))
        first, second = (round(bound * len(order)) for bound in _SPLIT_BOUNDS)
        part = {"train": order[:first], "val": order[first:second], "test": order[second:]}[split]
        chosen.append(tuple(int(at) * VARIANTS + k for at in part for k in range(VARIANTS)))
    return tuple(chosen)


ICONS = Theme(noun="icon", names=NAMES, load=load_icons, split=split_icons)
