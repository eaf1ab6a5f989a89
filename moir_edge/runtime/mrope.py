"""M-RoPE positions: a text token has one number, an image token a time, a row and a column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.errors import ShapeError

__all__ = ["mrope_positions"]

Ints = npt.NDArray[np.int64]
Grid = tuple[int, int]


def mrope_positions(
    is_image: npt.NDArray[np.bool_], attention_mask: npt.NDArray[Any], grids: Sequence[Grid]
) -> tuple[Ints, Ints]:
    """Number the tokens of a batch on three axes: time, height and width.

    Text counts on by one on all axes. An image starts where the text before it ended: its tokens share one time, and
    count rows and columns from there. What follows starts after the longer side of the image.

    Args:
        is_image: (batch, sequence), True at image tokens.
        attention_mask: (batch, sequence), 0 at padding on the left.
        grids: (rows, columns) of image tokens of every image, those of the first row of the batch first.

    Returns:
        Positions (3, batch, sequence) int64, 0 at padding, and the position of each row's first generated token,
        (batch,) int64, the same on all axes.

    Raises:
        ShapeError: The image tokens are not those of the grids.

    Source: `Qwen2VLModel.get_rope_index` of transformers; Wang et al., "Qwen2-VL", 2024, section 2.1.
    """
    positions = np.zeros((3, *attention_mask.shape), dtype=np.int64)
    following = np.zeros(len(attention_mask), dtype=np.int64)
    left = iter(grids)
    for row, mask in enumerate(attention_mask):
        places = np.flatnonzero(mask)
        columns, following[row] = _row(is_image[row, places], left)
        positions[:, row, places] = columns
    if (rest := len(list(left))) > 0:
        raise ShapeError(
            f"{len(grids)} images were given and the prompts hold image tokens for {len(grids) - rest} of them; "
            "expand each image's placeholder to its number of tokens"
        )
    return positions, following


def _row(is_image: npt.NDArray[np.bool_], grids: Iterator[Grid]) -> tuple[Ints, int]:
    """Return the positions (3, tokens) of one row without padding, and the next position."""
    parts, start, at = [np.zeros((3, 0), dtype=np.int64)], 0, 0
    changes = np.flatnonzero(np.diff(is_image)) + 1
    for end in (*changes.tolist(), len(is_image)):
        while at < end:
            if is_image[at]:
                rows, columns = _next(grids, end - at)
                part, step = _of_grid(rows, columns), max(rows, columns)
            else:
                step = end - at
                part = np.broadcast_to(np.arange(step), (3, step))
            parts.append(part + start)
            start, at = start + step, at + part.shape[1]
    return np.concatenate(parts, axis=1), start


def _next(grids: Iterator[Grid], room: int) -> Grid:
    """Return the next image's grid, which must fit into the run of image tokens."""
    grid = next(grids, None)
    if grid is None or grid[0] * grid[1] > room:
        found = "no image is left" if grid is None else f"the image has {grid[0]} x {grid[1]}"
        raise ShapeError(
            f"the prompt has {room} image tokens in a row, and {found}; "
            "expand each image's placeholder to its number of tokens"
        )
    return grid


def _of_grid(rows: int, columns: int) -> Ints:
    """Return time, row and column of an image's tokens, (3, rows × columns)."""
    height, width = np.divmod(np.arange(rows * columns), columns)
    return np.stack([np.zeros_like(height), height, width])
