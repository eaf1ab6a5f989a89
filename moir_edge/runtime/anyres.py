"""Pictures on a canvas of tiles, chosen by their shape: sizes and token grids of LLaVA-NeXT and LLaVA-OneVision.

The tokens of the tiles are put side by side as the tiles are, what shows the canvas beside the picture is cut off, and
one token ends each row. Sizes are (height, width) everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moir_edge.errors import DataError
from moir_edge.runtime.image_geometry import Box

__all__ = ["TokenGrid", "best_resolution", "fitted_size", "packed", "token_grid"]

Size = tuple[int, int]
Floats = npt.NDArray[np.float32]

_SHRINK_ABOVE = (
    1.1  # tokens are interpolated where the grid's sides pass the bound by more than this factor
)


def best_resolution(size: Size, resolutions: Sequence[Size]) -> Size:
    """Return the canvas on which most of a picture's pixels are kept; of equals, the one with the least waste.

    Args:
        size: (height, width) of the picture in px.
        resolutions: The canvases, (height, width) in px; of those that are equal in all, the first is taken.
    """
    height, width = size

    def key(canvas: Size) -> tuple[int, int]:
        scale = min(canvas[1] / width, canvas[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return -kept, canvas[0] * canvas[1] - kept

    return min(resolutions, key=key)


def fitted_size(size: Size, canvas: Size) -> Size:
    """Return the (height, width) in px that a picture is resized to, so that it fills its canvas one way."""
    by_height, by_width = canvas[0] / size[0], canvas[1] / size[1]
    if by_width < by_height:
        return min(math.ceil(size[0] * by_width), canvas[0]), canvas[1]
    return canvas[0], min(math.ceil(size[1] * by_height), canvas[1])


@dataclass(frozen=True, kw_only=True)
class TokenGrid:
    """Rows that the tokens of one picture's tiles become.

    Attributes:
        tiles: Rows and columns of tiles.
        side: Tokens along each side of a tile.
        first: Row and column where the picture starts among the tokens of all tiles.
        kept: Rows and columns that show the picture; none in one direction, where it is much longer than its canvas.
        rows: Rows after interpolation.
        columns: Columns after interpolation, the token that ends each row not counted.
        box: What the kept tokens show, (left, top, right, bottom) as fractions of the picture.
    """

    tiles: Size
    side: int
    first: Size
    kept: Size
    rows: int
    columns: int
    box: Box

    @property
    def tokens(self) -> int:
        """Tokens of the rows and of their ends."""
        return self.rows * (self.columns + 1)


def token_grid(
    size: Size, canvas: Size, *, tile: int, side: int, most_tiles: int | None = None
) -> TokenGrid:
    """Lay out the tokens of a picture.

    Args:
        size: (height, width) of the picture in px.
        canvas: (height, width) in px, whole tiles.
        tile: Side of a tile in px.
        side: Tokens along each side of a tile.
        most_tiles: Tokens of so many tiles are kept; those of more are interpolated. None keeps all.

    Raises:
        DataError: Interpolation leaves no row or no column.
    """
    tiles = (canvas[0] // tile, canvas[1] // tile)
    whole = (tiles[0] * side, tiles[1] * side)
    kept = _without_padding(size, whole)
    first = ((whole[0] - kept[0]) // 2, (whole[1] - kept[1]) // 2)
    rows, columns = kept if most_tiles is None else _shrunk(kept, side, most_tiles)
    if 0 in (rows, columns) and 0 not in kept:
        raise DataError(
            f"an image of {size[1]}x{size[0]} pixels leaves the model {columns}x{rows} image tokens; "
            "crop it to a less extreme shape"
        )
    return TokenGrid(
        tiles=tiles,
        side=side,
        first=first,
        kept=kept,
        rows=rows,
        columns=columns,
        box=_shown(size, canvas, first, kept, tile / side),
    )


def packed(features: Floats, newline: Floats, grid: TokenGrid) -> Floats:
    """Put the tokens of tiles in rows, each with its end.

    Args:
        features: (tiles, side × side, hidden), row by row of tiles.
        newline: (hidden,), the token that ends a row.
        grid: Of the picture.

    Returns:
        (tokens, hidden).
    """
    hidden = features.shape[-1]
    tiles = features.reshape(*grid.tiles, grid.side, grid.side, hidden)
    left, columns = grid.first[1], grid.kept[1]

    def row(index: int) -> Floats:
        tile, within = divmod(grid.first[0] + index, grid.side)
        found: Floats = tiles[tile, :, within].reshape(-1, hidden)[left : left + columns]
        return found

    rows = np.empty((grid.rows, grid.columns + 1, hidden), np.float32)
    rows[:, -1] = newline
    if (grid.rows, grid.columns) == grid.kept:
        for index in range(grid.rows):
            rows[index, :-1] = row(index)
        return rows.reshape(-1, hidden)
    low, high, shares = _linear(grid.kept[0], grid.rows)
    across = _linear(columns, grid.columns)
    for index, share in enumerate(shares):
        above, below = _mixed(row(low[index]), across), _mixed(row(high[index]), across)
        rows[index, :-1] = (1 - share) * above + share * below
    return rows.reshape(-1, hidden)


def _without_padding(size: Size, whole: Size) -> Size:
    """Return how many rows and columns of tokens show the picture; the other direction is filled."""
    height, width = size
    rows, columns = whole
    if width / height > columns / rows:
        shown = int(round(height * (columns / width), 7))
        return rows - 2 * ((rows - shown) // 2), columns
    shown = int(round(width * (rows / height), 7))
    return rows, columns - 2 * ((columns - shown) // 2)


def _shrunk(kept: Size, side: int, most_tiles: int) -> Size:
    ratio = math.sqrt(kept[0] * kept[1] / (most_tiles * side**2))
    if ratio <= _SHRINK_ABOVE:
        return kept
    return int(kept[0] // ratio), int(kept[1] // ratio)


def _shown(size: Size, canvas: Size, first: Size, kept: Size, cell: float) -> Box:
    """Return the part of the picture that the kept tokens show; a token stands for `cell` px of the canvas."""
    fitted = fitted_size(size, canvas)

    def fraction(token: int, axis: int) -> float:
        padding = (canvas[axis] - fitted[axis]) // 2
        return (token * cell - padding) / fitted[axis]

    return (
        fraction(first[1], 1),
        fraction(first[0], 0),
        fraction(first[1] + kept[1], 1),
        fraction(first[0] + kept[0], 0),
    )


_Linear = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]


def _linear(count: int, wanted: int) -> _Linear:
    """Return, for each point wanted, its two neighbours and the share of the second, as torch's bilinear mode does."""
    scale = np.float32(count) / np.float32(wanted)
    centres = np.arange(wanted, dtype=np.float32) + np.float32(0.5)
    at = np.maximum(scale * centres - np.float32(0.5), np.float32(0))
    low = np.minimum(at.astype(np.int64), count - 1)
    shares = np.clip(at - low.astype(np.float32), 0, 1).astype(np.float32)
    return low, np.minimum(low + 1, count - 1), shares


def _mixed(row: Floats, points: _Linear) -> Floats:
    """Interpolate one row, (columns, hidden), at points."""
    low, high, shares = points
    mixed: Floats = (1 - shares[:, None]) * row[low] + shares[:, None] * row[high]
    return mixed
