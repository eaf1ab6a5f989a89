"""Parts that the fused kernels share: memory layout, the router's constants, and the tiling of tokens.

Score every token, order each side, look up and enrich. Two dependencies span the grid, and each ends a kernel: a token's rank among the weak and the log-density prior need the
scores of a whole side, and a lookup needs the keys of a whole side. Everything else stays in registers.

Layout shared by the kernels, for T = image_tokens + text_tokens with the image tokens first:

- ``places`` (batch, T) int64: position of a token in the sequence, -1 where none;
- ``projected`` (batch, T, width) float32 scratch: [query | own | key] of the normalised token, then `down` of the raw one;
- weights are stacked (2, ...) over image and text; query holds 1/√rank, blend is behind its tanh.

A tile of tokens lies on one side. In memory a token's row is read by `score_tokens` (its second pass over the row comes out
of the cache), read again by `enrich_tokens`, and written once; `copy_rest` copies the rows of no token.

Source: the steps are those of `moir_edge.router.token.TokenRouter`; top-k in registers is a selection by repeated maximum.
"""

from __future__ import annotations

import triton
import triton.language as tl

from moir_edge.router import constants

__all__ = ["tile_of"]

# Triton lets a kernel read a global only where it is a constexpr.
EPSILON = tl.constexpr(constants.LAYER_NORM_EPSILON)
DENSITY_SLOPE = tl.constexpr(constants.DENSITY_SLOPE)
SIMILARITY_SLOPE = tl.constexpr(constants.SIMILARITY_SLOPE)
DENSITY_FLOOR = tl.constexpr(constants.DENSITY_FLOOR)
SHARE_FLOOR = tl.constexpr(constants.SHARE_FLOOR)
ABSENT = tl.constexpr(constants.ABSENT)
EXISTS = tl.constexpr(constants.EXISTS)
BEHIND = tl.constexpr(constants.BEHIND)
FLOAT32_MAX = tl.constexpr(constants.FLOAT32_MAX)
TAKEN = tl.constexpr(-3e38)

# They differ from prompt to prompt; a kernel compiled for what divides them would be compiled again and again.
LENGTHS = ("length", "image_tokens", "tokens")


@triton.jit
def tile_of(tile, image_tokens, tokens, BLOCK: tl.constexpr):
    """Return the side (0 image, 1 text) of a tile, its tokens, and which of them lie inside the side."""
    image_tiles = tl.cdiv(image_tokens, BLOCK)
    side = (tile >= image_tiles).to(tl.int32)
    first = tl.where(side == 1, image_tokens + (tile - image_tiles) * BLOCK, tile * BLOCK)
    token = first + tl.arange(0, BLOCK)
    return side, token, token < tl.where(side == 1, tokens, image_tokens)
