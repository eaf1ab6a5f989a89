"""Seeded pictures for parity samples: smooth, coloured, none like another."""

from __future__ import annotations

import numpy as np

from moir_edge.runtime.interface import Floats

__all__ = ["smooth_picture"]

_BLOBS = 4


def smooth_picture(random: np.random.Generator, height: int, width: int) -> Floats:
    """Return a coloured gradient with soft blobs, (3, height, width) float32 in [-1, 1]."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    slope = random.normal(size=(3, 2, 1, 1))
    picture = slope[:, 0] * (x - 0.5) + slope[:, 1] * (y - 0.5)
    for _ in range(_BLOBS):
        centre_x, centre_y = random.uniform(0.1, 0.9, size=2)
        spread = random.uniform(0.05, 0.2)
        blob = np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / spread**2)
        picture += random.normal(size=(3, 1, 1)) * 2 * blob
    pixels: Floats = np.tanh(picture).astype(np.float32)
    return pixels
