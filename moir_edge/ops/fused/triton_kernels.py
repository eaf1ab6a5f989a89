"""The token router in Triton kernels: score every token, order each side, then look up and enrich the weak.

Two dependencies span the grid, and each ends a kernel: a token's rank among the weak and the log-density prior need the
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

__all__ = ["copy_rest", "enrich_tokens", "order_tokens", "score_tokens"]

# Triton lets a kernel read a global only where it is a constexpr. The values are the torch router's.
EPSILON = tl.constexpr(1e-5)
DENSITY_SLOPE = tl.constexpr(2.0**-18)
SIMILARITY_SLOPE = tl.constexpr(2.0**-14)
DENSITY_FLOOR = tl.constexpr(1e-6)
SHARE_FLOOR = tl.constexpr(1e-30)
ABSENT = tl.constexpr(-1e9)
EXISTS = tl.constexpr(-5e8)
TAKEN = tl.constexpr(-3e38)
BEHIND = tl.constexpr(9.0)
FLOAT32_MAX = tl.constexpr(3.4028234e38)

# They differ from prompt to prompt; a kernel compiled for what divides them would be compiled again and again.
LENGTHS = ("length", "image_tokens", "tokens")


@triton.jit
def _tile(tile, image_tokens, tokens, BLOCK: tl.constexpr):
    """Return the side (0 image, 1 text) of a tile, its tokens, and which of them lie inside the side."""
    image_tiles = tl.cdiv(image_tokens, BLOCK)
    side = (tile >= image_tiles).to(tl.int32)
    first = tl.where(side == 1, image_tokens + (tile - image_tiles) * BLOCK, tile * BLOCK)
    token = first + tl.arange(0, BLOCK)
    return side, token, token < tl.where(side == 1, tokens, image_tokens)


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
    side, token, inside = _tile(tl.program_id(0), image_tokens, tokens, BLOCK)
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


@triton.jit
def _side_is_open(
    summary, sample, side, TO_IMAGE: tl.constexpr, TO_TEXT: tl.constexpr, AUTO: tl.constexpr
):
    """Return whether a sample can be routed, and whether this side of it is to be enriched: int32, 0 or 1.

    Not bools: Triton's interpreter takes a broadcast bool for the type that was compared.
    """
    image = summary + sample * 6
    image_count = tl.load(image)
    text_count = tl.load(image + 3)
    finite = (tl.load(image + 1) <= FLOAT32_MAX) & (tl.load(image + 4) <= FLOAT32_MAX)
    usable = finite & (image_count > 0) & (text_count > 0)
    opened = usable
    if not TO_IMAGE:
        opened = opened & (side == 1)
    if not TO_TEXT:
        opened = opened & (side == 0)
    if AUTO:
        image_mean = tl.load(image + 2) / tl.maximum(image_count, 1.0)
        text_mean = tl.load(image + 5) / tl.maximum(text_count, 1.0)
        opened = opened & ((side == 0) == (text_mean >= image_mean))
    return usable.to(tl.int32), opened.to(tl.int32)


@triton.jit
def _rank(ordered, mine, first, end, BLOCK: tl.constexpr, SOURCES: tl.constexpr):
    """Return how many of the side's ordered densities lie under each of `mine`."""
    lower = tl.zeros((BLOCK,), tl.float32)
    for start in range(first, end, SOURCES):
        other = start + tl.arange(0, SOURCES)
        theirs = tl.load(ordered + other, mask=other < end, other=BEHIND)
        lower += tl.sum((theirs[None, :] < mine[:, None]).to(tl.float32), 1)
    return lower


@triton.jit
def _merge_best(best, pick, similarity, source, KEPT: tl.constexpr, KEPT_PADDED: tl.constexpr):
    """Take the KEPT largest of what was kept, (tokens, KEPT_PADDED), and a block (tokens, sources), in falling order."""
    column = tl.arange(0, KEPT_PADDED)[None, :]
    new_best = tl.full(best.shape, ABSENT, tl.float32)
    new_pick = tl.full(pick.shape, -1, tl.int32)
    for turn in tl.static_range(KEPT):
        block_top = tl.max(similarity, 1)
        kept_top = tl.max(best, 1)
        # Of equals the earlier source wins: what was kept comes from earlier blocks.
        fresh = block_top > kept_top
        at = tl.where(similarity == block_top[:, None], source[None, :], 2147483647)
        block_pick = tl.min(at, 1)
        kept_column = tl.argmax(best, 1, tie_break_left=True)
        kept_pick = tl.sum(tl.where(column == kept_column[:, None], pick, 0), 1)
        new_best = tl.where(column == turn, tl.where(fresh, block_top, kept_top)[:, None], new_best)
        new_pick = tl.where(
            column == turn, tl.where(fresh, block_pick, kept_pick)[:, None], new_pick
        )
        gone = fresh[:, None] & (source[None, :] == block_pick[:, None])
        similarity = tl.where(gone, TAKEN, similarity)
        best = tl.where((column == kept_column[:, None]) & (fresh == 0)[:, None], TAKEN, best)
    return new_best, new_pick


@triton.jit(do_not_specialize=LENGTHS)
def enrich_tokens(
    embeds,
    places,
    projected,
    density,
    ordered,
    prior,
    summary,
    up,
    blend,
    routed,
    scores,
    indices,
    margin,
    gates,
    length,
    image_tokens,
    tokens,
    hidden,
    ratio,
    threshold,
    COLUMNS: tl.constexpr,
    KEY_AT: tl.constexpr,
    OWN_AT: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PADDED: tl.constexpr,
    TOP_K: tl.constexpr,
    KEPT_PADDED: tl.constexpr,
    BY_RATIO: tl.constexpr,
    BY_THRESHOLD: tl.constexpr,
    TO_IMAGE: tl.constexpr,
    TO_TEXT: tl.constexpr,
    AUTO: tl.constexpr,
    MERGE: tl.constexpr,
    BLOCK: tl.constexpr,
    SOURCES: tl.constexpr,
    CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Find the sources of a tile's weak tokens and enrich these; grid (tiles of both sides, batch).

    Writes the tokens' rows of ``routed`` (batch, length, hidden), as they were where they are not weak, and ``scores``,
    ``margin``, ``gates`` (batch, T) and ``indices`` (batch, T, TOP_K).
    """
    sample = tl.program_id(1).to(tl.int64)
    side, token, inside = _tile(tl.program_id(0), image_tokens, tokens, BLOCK)
    usable, opened = _side_is_open(summary, sample, side, TO_IMAGE, TO_TEXT, AUTO)
    at = sample * tokens + token
    place = tl.load(places + at, mask=inside, other=-1)
    valid = (place >= 0) & (usable > 0)
    score = tl.where(valid, tl.load(density + at, mask=inside, other=0.0), 0.0)
    own_first = tl.where(side == 1, image_tokens, 0)
    own_end = tl.where(side == 1, tokens, image_tokens)
    weak = tl.zeros((BLOCK,), tl.int32)
    if BY_THRESHOLD:
        weak = weak | (score < threshold).to(tl.int32)
    if BY_RATIO:
        mine = tl.load(ordered + at, mask=inside, other=BEHIND)
        count = tl.load(summary + sample * 6 + side * 3)
        end = tl.where(opened > 0, own_end, own_first)
        lower = _rank(ordered + sample * tokens, mine, own_first, end, BLOCK, SOURCES)
        weak = weak | (lower < tl.floor(count * ratio + 0.5)).to(tl.int32)
    gate = tl.where((weak * opened > 0) & valid, 1.0 - score, 0.0)
    is_open = gate > 0
    tl.store(scores + at, score, mask=inside)
    tl.store(gates + at, gate, mask=inside)

    # The loop over sources is empty where the tile has nothing to enrich.
    busy = tl.max(gate, 0) > 0
    rank = tl.arange(0, RANK_PADDED)
    in_rank = rank < RANK
    width = COLUMNS + RANK
    mine = projected + at[:, None] * width + rank[None, :]
    wanted = is_open[:, None] & in_rank[None, :]
    query = tl.load(mine, mask=wanted, other=0.0)
    best = tl.full((BLOCK, KEPT_PADDED), ABSENT, tl.float32)
    pick = tl.full((BLOCK, KEPT_PADDED), -1, tl.int32)
    source_first = tl.where(side == 1, 0, image_tokens)
    source_end = tl.where(side == 1, image_tokens, tokens)
    stop = tl.where(busy, source_end, source_first)
    for start in range(source_first, stop, SOURCES):
        source = start + tl.arange(0, SOURCES)
        source_at = sample * tokens + source
        listed = source < source_end
        key = tl.load(
            projected + source_at[None, :] * width + KEY_AT + rank[:, None],
            mask=listed[None, :] & in_rank[:, None],
            other=0.0,
        )
        log_density = tl.load(prior + source_at, mask=listed, other=ABSENT)
        similarity = tl.dot(query, key, input_precision=PRECISION) + log_density[None, :]
        similarity = tl.where((log_density > EXISTS)[None, :], similarity, ABSENT)
        best, pick = _merge_best(best, pick, similarity, source, TOP_K + 1, KEPT_PADDED)

    column = tl.arange(0, KEPT_PADDED)[None, :]
    highest = tl.max(best, 1)
    share = tl.where(column < TOP_K, tl.exp(best - highest[:, None]), 0.0)
    share = share / tl.sum(share, 1)[:, None]
    runner_up = tl.sum(tl.where(column == 1, best, 0.0), 1)
    gap = tl.where(is_open & (runner_up > EXISTS), highest - runner_up, 0.0)
    tl.store(margin + at, gap, mask=inside)
    context = tl.zeros((BLOCK, RANK_PADDED), tl.float32)
    for turn in tl.static_range(TOP_K):
        chosen = tl.sum(tl.where(column == turn, pick, 0), 1)
        part = tl.sum(tl.where(column == turn, share, 0.0), 1)
        found = is_open & (chosen >= 0)
        chosen_at = sample * tokens + chosen
        position = tl.load(places + chosen_at, mask=found, other=-1)
        tl.store(indices + at * TOP_K + turn, position, mask=inside)
        value = tl.load(
            projected + chosen_at[:, None] * width + COLUMNS + rank[None, :],
            mask=found[:, None] & in_rank[None, :],
            other=0.0,
        )
        context += part[:, None] * value
    if MERGE == "concat":
        context += tl.load(mine + OWN_AT, mask=wanted, other=0.0)

    row = (sample * length + place) * hidden
    placed = (place >= 0)[:, None]
    for start in range(0, hidden, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        present = channel < hidden
        cell = row[:, None] + channel[None, :]
        mask = placed & present[None, :]
        given = tl.load(embeds + cell, mask=mask, other=0.0)
        x = given.to(tl.float32)
        weight = tl.load(
            up + (side * RANK + rank)[:, None] * hidden + channel[None, :],
            mask=in_rank[:, None] & present[None, :],
            other=0.0,
        )
        update = tl.dot(context, weight, input_precision=PRECISION)
        if MERGE == "interpolate":
            rate = tl.load(blend + side * hidden + channel, mask=present, other=0.0)
            update = rate[None, :] * (update - x)
        out = (x + gate[:, None] * update).to(given.dtype)
        tl.store(routed + cell, tl.where(is_open[:, None], out, given), mask=mask)


@triton.jit(do_not_specialize=LENGTHS)
def copy_rest(
    embeds,
    places,
    routed,
    length,
    tokens,
    hidden,
    BLOCK: tl.constexpr,
    SOURCES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Copy the rows of the sequence where no token stands; grid (tiles of the sequence, batch)."""
    sample = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    taken = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, tokens, SOURCES):
        other = start + tl.arange(0, SOURCES)
        place = tl.load(places + sample * tokens + other, mask=other < tokens, other=-1)
        taken = taken | tl.max((place[None, :] == row[:, None]).to(tl.int32), 1)
    rest = ((taken == 0) & (row < length))[:, None]
    first = (sample * length + row) * hidden
    stop = tl.where(tl.max(rest.to(tl.int32)) > 0, hidden, 0)
    for start in range(0, stop, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        cell = first[:, None] + channel[None, :]
        mask = rest & (channel < hidden)[None, :]
        tl.store(routed + cell, tl.load(embeds + cell, mask=mask, other=0.0), mask=mask)
