"""Where a long prompt is cut into the pieces in which an engine takes it."""

from __future__ import annotations

from moir_edge.errors import DataError
from moir_edge.runtime.interface import Ints

__all__ = ["prompt_pieces"]


def prompt_pieces(length: int, most: int, blocks: Ints | None = None) -> list[slice]:
    """Return the pieces of a prompt, in order.

    Tokens of one block see each other in both directions, which they cannot across a cut.

    Args:
        length: Tokens of the prompt.
        most: Tokens that the engine takes at once.
        blocks: (batch, length), the number of each token's block, -1 for a causal token; None without blocks.

    Raises:
        DataError: A block is longer than the engine takes at once.
    """
    pieces, start = [], 0
    while start < length:
        stop = min(start + most, length)
        while stop > start and blocks is not None and _cuts(blocks, stop):
            stop -= 1
        if stop == start:
            raise DataError(
                f"the prompt has a block of tokens that see each other, longer than the {most} tokens that the engine takes at once; "
                "shorten the prompt, or run the bundle with the provider 'cpu' or 'cuda'"
            )
        pieces.append(slice(start, stop))
        start = stop
    return pieces


def _cuts(blocks: Ints, at: int) -> bool:
    """Say whether a cut in front of a column parts a block of any row."""
    if at >= blocks.shape[1]:
        return False
    return bool(((blocks[:, at - 1] == blocks[:, at]) & (blocks[:, at] >= 0)).any())
