"""The first two kernels of the fused token router: score and project every token, then put each side in order."""

from __future__ import annotations

import triton
import triton.language as tl

from moir_edge.router.fused.kernel_parts import (
    ABSENT,
    BEHIND,
    DENSITY_FLOOR,
    DENSITY_SLOPE,
    EPSILON,
    LENGTHS,
    SHARE_FLOOR,
    SIMILARITY_SLOPE,
    tile_of,
)

__all__ = ["order_tokens", "score_tokens"]


@triton.jit
def _moments(row, valid, hidden, BLOCK: tl.constexpr, CHANNELS: tl.constexpr):
    """Return mean, 1/σ, Σ|x| and Σx² of each row in one pass; blocks are merged as Chan, Golub and LeVeque do."""
    mean = tl.zeros((BLOCK,), tl.float32)
    spread = tl.zeros((BLOCK,), tl.float32)
    size = tl.zeros((BLOCK,), tl.float32)
    energy = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, hidden, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        present = (channel < hidden)[None, :]
        x = tl.load(row[:, None] + channel[None, :], mask=valid[:, None] & present, other=0.0)
        x = x.to(tl.float32)
        count = tl.minimum(hidden - start, CHANNELS).to(tl.float32)
        block_mean = tl.sum(x, 1) / count
        centred = tl.where(present, x - block_mean[:, None], 0.0)
        step = block_mean - mean
        share = count / (start + count)
        mean += step * share
        spread += tl.sum(centred * centred, 1) + step * step * share * start
        size += tl.sum(tl.abs(x), 1)
        energy += tl.sum(x * x, 1)
    return mean, 1.0 / tl.sqrt(spread / hidden + EPSILON), size, energy


@triton.jit(do_not_specialize=LENGTHS)
def score_tokens(
    embeds,
    places,
    norm_scale,
    norm_shift,
    head,
    head_bias,
    normal_weight,
    down,
    density,
    size,
    projected,
    length,
    image_tokens,
    tokens,
    hidden,
    log_hidden,
    COLUMNS: tl.constexpr,
    COLUMNS_PADDED: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PADDED: tl.constexpr,
    ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Score a tile of tokens and project them; grid (tiles of both sides, batch).

    Reads ``embeds`` (batch, length, hidden) at ``places``; writes ``density`` and ``size`` = Σ|x|, (batch, T), and
    ``projected`` (batch, T, COLUMNS + RANK). ``normal_weight`` is (2, hidden, COLUMNS), ``down`` (2, hidden, RANK).
    """
    sample = tl.program_id(1).to(tl.int64)
    side, token, inside = tile_of(tl.program_id(0), image_tokens, tokens, BLOCK)
    at = sample * tokens + token
    place = tl.load(places + at, mask=inside, other=-1)
    valid = place >= 0
    row = embeds + (sample * length + place) * hidden
    mean, scale, absolute, energy = _moments(row, valid, hidden, BLOCK, WIDE)
    column = tl.arange(0, COLUMNS_PADDED)
    rank = tl.arange(0, RANK_PADDED)
    normal = tl.zeros((BLOCK, COLUMNS_PADDED), tl.float32)
    value = tl.zeros((BLOCK, RANK_PADDED), tl.float32)
    raw = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, hidden, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        present = channel < hidden
        mask = valid[:, None] & present[None, :]
        x = tl.load(row[:, None] + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        weight_row = side * hidden + channel
        gamma = tl.load(norm_scale + weight_row, mask=present, other=0.0)
        beta = tl.load(norm_shift + weight_row, mask=present, other=0.0)
        normalized = (x - mean[:, None]) * scale[:, None] * gamma[None, :] + beta[None, :]
        if ENTROPY:
            share = x * x / tl.maximum(energy, SHARE_FLOOR)[:, None]
            raw -= tl.sum(share * tl.log(tl.maximum(share, SHARE_FLOOR)), 1)
        else:
            weight = tl.load(head + weight_row, mask=present, other=0.0)
            raw += tl.sum(normalized * weight[None, :], 1)
        into = tl.load(
            normal_weight + weight_row[:, None] * COLUMNS + column[None, :],
            mask=present[:, None] & (column < COLUMNS)[None, :],
            other=0.0,
        )
        normal = tl.dot(normalized, into, normal, input_precision=PRECISION)
        into = tl.load(
            down + weight_row[:, None] * RANK + rank[None, :],
            mask=present[:, None] & (rank < RANK)[None, :],
            other=0.0,
        )
        value = tl.dot(x, into, value, input_precision=PRECISION)
    if ENTROPY:
        raw = tl.minimum(tl.maximum(raw / log_hidden, 0.0), 1.0)
    else:
        raw = tl.sigmoid(raw + tl.load(head_bias + side))
    tl.store(density + at, tl.where(valid, raw, 0.0), mask=inside)
    tl.store(size + at, tl.where(valid, absolute, 0.0), mask=inside)
    out = projected + at[:, None] * (COLUMNS + RANK)
    tl.store(out + column[None, :], normal, mask=inside[:, None] & (column < COLUMNS)[None, :])
    tl.store(out + COLUMNS + rank[None, :], value, mask=inside[:, None] & (rank < RANK)[None, :])


@triton.jit(do_not_specialize=LENGTHS[1:])
def order_tokens(
    places, density, size, ordered, prior, summary, image_tokens, tokens, WIDE: tl.constexpr
):
    """Put one side of one sample in order; grid (batch, 2).

    Writes ``ordered`` (batch, T), densities with a slope that makes the earlier of equals the weaker; ``prior``
    (batch, T), log density with a slope that prefers the earlier of equals; ``summary`` (batch, 2, 3): how many tokens,
    Σ Σ|x|, Σ density.
    """
    sample = tl.program_id(0).to(tl.int64)
    side = tl.program_id(1)
    first = tl.where(side == 1, image_tokens, 0)
    end = tl.where(side == 1, tokens, image_tokens)
    seen = tl.zeros((), tl.float32)
    total_size = tl.zeros((), tl.float32)
    total_density = tl.zeros((), tl.float32)
    for start in range(first, end, WIDE):
        token = start + tl.arange(0, WIDE)
        at = sample * tokens + token
        inside = token < end
        valid = tl.load(places + at, mask=inside, other=-1) >= 0
        score = tl.load(density + at, mask=inside, other=0.0)
        present = valid.to(tl.float32)
        order = seen + tl.cumsum(present, 0)
        tl.store(ordered + at, tl.where(valid, score + DENSITY_SLOPE * order, BEHIND), mask=inside)
        log_score = tl.log(tl.maximum(score, DENSITY_FLOOR)) - SIMILARITY_SLOPE * order
        tl.store(prior + at, tl.where(valid, log_score, ABSENT), mask=inside)
        seen += tl.sum(present, 0)
        total_size += tl.sum(tl.load(size + at, mask=inside, other=0.0), 0)
        total_density += tl.sum(score, 0)
    row = summary + (sample * 2 + side) * 3
    tl.store(row, seen)
    tl.store(row + 1, total_size)
    tl.store(row + 2, total_density)
