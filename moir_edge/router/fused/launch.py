"""Launches the kernels one after the other on the tensors' device; the only module that imports triton."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moir_edge.router.fused.enrichment import copy_rest, enrich_tokens
from moir_edge.router.fused.scoring import order_tokens, score_tokens
from moir_edge.router.fused.weights import RouterWeights, columns

if TYPE_CHECKING:
    from moir_edge.router.config import RouterConfig

__all__ = ["Tiles", "compile_options", "kernel_constants", "launch"]


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Tile sizes of a kernel's program: powers of two, at least 16 as tensor cores require.

    With the defaults every supported rank compiles for SM 80 and later without register spills and within the shared
    memory of SM 86; they were not tuned on a GPU.

    Attributes:
        tokens: Tokens of a tile.
        moments: Channels per step while mean and variance are taken.
        channels: Channels per step while tokens are projected.
        written: Channels per step while rows are written.
        sources: Sources per step of the lookup.
        ordered: Tokens per step while a side is put in order.
        warps: Warps of 32 threads per program.
        stages: Steps whose loads are under way at a time.
    """

    tokens: int = 16
    moments: int = 256
    channels: int = 32
    written: int = 128
    sources: int = 64
    ordered: int = 1024
    warps: int = 8
    stages: int = 3


def launch(
    embeds: Tensor,
    places: Tensor,
    image_tokens: int,
    weights: RouterWeights,
    config: RouterConfig,
    *,
    tiles: Tiles | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Route one batch.

    Args:
        embeds: (batch, length, hidden), contiguous, float32, float16 or bfloat16.
        places: (batch, T) int64, the image tokens' positions and then the text tokens'; -1 where none.
        image_tokens: How many of the T are of the image.
        weights: See `stack_weights`.
        config: Of the router.
        tiles: None for the ones that suit the device.

    Returns:
        Routed embeddings, scores, indices, margin and gate, as `moir_edge.router.RouterOutput` has them.
    """
    tiles = tiles or Tiles()
    batch, length, hidden = embeds.shape
    tokens = places.shape[1]
    constants = kernel_constants(config, tiles, precision=_precision(embeds.device))
    sizes = (length, image_tokens, tokens, hidden)
    count = -(-image_tokens // tiles.tokens) + -(-(tokens - image_tokens) // tiles.tokens)
    grid = (count, batch)
    # Each on its own: parts of one tensor would be aligned for some lengths only, and compiled for once more.
    density, size, ordered, prior, scores, margin, gates = (
        embeds.new_empty((batch, tokens), dtype=torch.float32) for _ in range(7)
    )
    width = constants["score"]["COLUMNS"] + config.rank
    projected = embeds.new_empty((batch, tokens, width), dtype=torch.float32)
    summary = embeds.new_empty((batch, 2, 3), dtype=torch.float32)
    indices = places.new_empty((batch, tokens, config.top_k))
    routed = torch.empty_like(embeds)
    option = compile_options(tiles)
    score_tokens[grid](
        *(embeds, places, weights.norm_scale, weights.norm_shift, weights.head, weights.head_bias),
        *(weights.normal, weights.down, density, size, projected, *sizes, math.log(hidden)),
        **constants["score"],
        **option,
    )
    order_tokens[(batch, 2)](
        *(places, density, size, ordered, prior, summary, image_tokens, tokens),
        **constants["order"],
        **option,
    )
    enrich_tokens[grid](
        *(embeds, places, projected, density, ordered, prior, summary, weights.up, weights.blend),
        *(weights.edge, weights.slope),
        *(routed, scores, indices, margin, gates, *sizes),
        *(config.ratio or 0.0, config.threshold or 0.0),
        **constants["enrich"],
        **option,
    )
    copy_rest[(-(-length // tiles.tokens), batch)](
        *(embeds, places, routed, length, tokens, hidden), **constants["rest"], **option
    )
    return routed, scores, indices, margin, gates


def kernel_constants(
    config: RouterConfig, tiles: Tiles, *, precision: str
) -> dict[str, dict[str, Any]]:
    """Return the compile-time constants of the kernels: `score`, `order`, `enrich` and `rest`.

    Args:
        config: Of the router.
        tiles: How much a program works on.
        precision: Of float32 products: ``ieee``, or ``tf32x3``, three products on tensor cores of about that accuracy.
    """
    width, key_at, own_at = columns(config.merge, config.direction, config.rank)
    shared = {
        "COLUMNS": width,
        "RANK": config.rank,
        "RANK_PADDED": _padded(config.rank),
        "BLOCK": tiles.tokens,
        "PRECISION": precision,
    }
    return {
        "score": {
            **shared,
            "COLUMNS_PADDED": _padded(width),
            "CHANNELS": tiles.channels,
            "WIDE": tiles.moments,
            "ENTROPY": config.density == "entropy",
        },
        "order": {"WIDE": tiles.ordered},
        "rest": {
            "BLOCK": tiles.tokens,
            "SOURCES": tiles.sources,
            "CHANNELS": tiles.written,
        },
        "enrich": {
            **shared,
            "KEY_AT": key_at,
            "OWN_AT": own_at,
            "TOP_K": config.top_k,
            "KEPT_PADDED": 1 << config.top_k.bit_length(),
            "BY_RATIO": config.ratio is not None,
            "BY_THRESHOLD": config.threshold is not None,
            "LEARNED_GATE": config.learned_gate,
            "TO_IMAGE": "image" in config.enriched_sides,
            "TO_TEXT": "text" in config.enriched_sides,
            "AUTO": config.direction == "auto",
            "MERGE": config.merge,
            "SOURCES": tiles.sources,
            "CHANNELS": tiles.written,
        },
    }


def compile_options(tiles: Tiles) -> dict[str, Any]:
    """Return the options that every kernel is compiled with.

    Args:
        tiles: How much a program works on.
    """
    return {"num_warps": tiles.warps, "num_stages": tiles.stages, "enable_fp_fusion": True}


def _padded(width: int) -> int:
    """Return the next power of two, at least 16: what a matrix product in a kernel takes."""
    return max(16, 1 << (width - 1).bit_length())


def _precision(device: torch.device) -> str:
    """Return how float32 products are made; tensor cores round to ten bits unless three products make up for it."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return "ieee"
    return "tf32x3"
