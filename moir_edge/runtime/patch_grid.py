"""Inputs of a vision tower over a grid of patches for one image: its patches, rotary tables, and windows of attention.

A tower could derive the tables from the grid, with steps that depend on the data and do not survive tracing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = [
    "Windows",
    "as_patches",
    "as_picture",
    "grid_places",
    "rotary_tables",
    "window_tables",
]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Windows = tuple[Ints, Ints, Ints]


def as_patches(picture: Floats, patch: int, merge: int, frames: int) -> Floats:
    """Cut a picture into patches, those of one block together.

    Args:
        picture: (channels, height, width); both sides are multiples of `patch` × `merge`.
        patch: Side of a patch in px.
        merge: Side of a block in patches.
        frames: Copies of the picture in each patch.

    Returns:
        (patches, values of a patch); the values go by channel, frame, row and column.
    """
    channels, height, width = picture.shape
    down, across = height // (patch * merge), width // (patch * merge)
    blocks = picture.reshape(channels, down, merge, patch, across, merge, patch)
    # (block rows, block columns, rows of a block, columns of a block, channels, height, width)
    blocks = blocks.transpose(1, 4, 2, 5, 0, 3, 6)
    values = np.empty((*blocks.shape[:5], frames, patch, patch), dtype=np.float32)
    values[:] = blocks[:, :, :, :, :, None]
    return values.reshape(-1, channels * frames * patch * patch)


def as_picture(patches: Floats, size: tuple[int, int], patch: int, merge: int) -> Floats:
    """Put patches of one frame together again, the inverse of `as_patches`.

    Args:
        patches: (patches, values of a patch), three channels each.
        size: (height, width) of the picture in px.
        patch: Side of a patch in px.
        merge: Side of a block in patches.

    Returns:
        (3, height, width).
    """
    down, across = (edge // (patch * merge) for edge in size)
    blocks = patches.reshape(down, across, merge, merge, 3, patch, patch)
    # (channels, block rows, rows of a block, height, block columns, columns of a block, width)
    return blocks.transpose(4, 0, 2, 5, 1, 3, 6).reshape(3, *size)


def grid_places(rows: int, columns: int, merge: int) -> Ints:
    """Return row and column of each patch in the order of the patches, (patches, 2).

    Args:
        rows: Patches from the top to the bottom, a multiple of `merge`.
        columns: Patches from the left to the right, a multiple of `merge`.
        merge: Side of a block of patches that stand together.
    """
    places = np.indices((rows, columns), dtype=np.int64)
    blocks = places.reshape(2, rows // merge, merge, columns // merge, merge)
    return blocks.transpose(1, 3, 2, 4, 0).reshape(-1, 2)


def rotary_tables(
    places: Ints, width: int, base: float, *, alternating: bool = False
) -> tuple[Floats, Floats]:
    """Return the cosines and sines that turn queries and keys of one head.

    Args:
        places: (patches, 2) from `grid_places`.
        width: Width of a head, a multiple of 4: a quarter of it turns by the row, a quarter by the column, and its
            second half as its first.
        base: Base of the wavelengths.
        alternating: Of `width` / 2 wavelengths rows have every other one, and columns those between them (Pixtral);
            otherwise both have the same ones (Qwen).

    Returns:
        Two arrays (patches, width), float32.

    Source: `Qwen2VLVisionRotaryEmbedding` and `PixtralVisionRotaryEmbedding` of transformers, with their order of float32
    operations.
    """
    exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    # In float64, since numpy's power of float32 is less exact than torch's: an angle is a multiple of the error.
    wavelengths = np.power(base, exponents.astype(np.float64)).astype(np.float32)
    all_frequencies = np.float32(1.0) / wavelengths
    rows, columns = all_frequencies[0::2], all_frequencies[1::2]
    frequencies = np.stack([rows, columns if alternating else rows])
    angles = (places[..., None].astype(np.float32) * frequencies).reshape(len(places), -1)
    whole = np.concatenate([angles, angles], axis=-1)
    return np.cos(whole), np.sin(whole)


def window_tables(rows: int, columns: int, merge: int, window: int) -> Windows:
    """Return which patches attend to each other within square windows, the ones at the rim cut.

    Args:
        rows: Patches from the top to the bottom, a multiple of `merge`.
        columns: Patches from the left to the right, a multiple of `merge`.
        merge: Side of a block of patches that stand together.
        window: Side of a window, in blocks.

    Returns:
        The patch at each place of each window, (windows, places), 0 where a cut window has none; 1 where it has one and 0
        elsewhere, (windows, places); and for each patch its place, counted through all windows, (patches,). All int64.
    """
    height, width = rows // merge, columns // merge
    down, across = -(-height // window), -(-width // window)
    blocks = np.full((down * window, across * window), -1, dtype=np.int64)
    blocks[:height, :width] = np.arange(height * width).reshape(height, width)
    ordered = blocks.reshape(down, window, across, window).transpose(0, 2, 1, 3).reshape(-1, 1)
    unit = merge * merge
    patches = np.where(ordered >= 0, ordered * unit + np.arange(unit), -1)
    patches = patches.reshape(down * across, -1)  # (windows, places)
    held = patches >= 0
    places = np.empty(rows * columns, dtype=np.int64)
    places[patches[held]] = np.flatnonzero(held)
    return np.where(held, patches, 0), held.astype(np.int64), places
