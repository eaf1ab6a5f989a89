"""The last two kernels of the fused token router: find sources for the weak tokens, enrich these, copy all other rows."""

from __future__ import annotations

import triton
import triton.language as tl

from moir_edge.router.fused.kernel_parts import (
    ABSENT,
    BEHIND,
    EXISTS,
    FLOAT32_MAX,
    LENGTHS,
    TAKEN,
    tile_of,
)

__all__ = ["copy_rest", "enrich_tokens"]


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


@triton.jit
def _gate(
    ordered,
    summary,
    score,
    at,
    inside,
    sample,
    side,
    opened,
    image_tokens,
    tokens,
    edge,
    slope,
    ratio,
    threshold,
    BY_RATIO: tl.constexpr,
    BY_THRESHOLD: tl.constexpr,
    LEARNED_GATE: tl.constexpr,
    BLOCK: tl.constexpr,
    SOURCES: tl.constexpr,
):
    """Return the gate of each token if it is valid and its side open: 1 − density where it is weak, else 0.

    A learned gate is the ramp slope · (edge − density), cut off at 0 and 1.
    """
    if LEARNED_GATE:
        ramp = tl.load(slope + side) * (tl.load(edge + side) - score)
        strength = tl.minimum(tl.maximum(ramp, 0.0), 1.0)
    else:
        weak = tl.zeros((BLOCK,), tl.int32)
        if BY_THRESHOLD:
            weak = weak | (score < threshold).to(tl.int32)
        if BY_RATIO:
            mine = tl.load(ordered + at, mask=inside, other=BEHIND)
            count = tl.load(summary + sample * 6 + side * 3)
            first = tl.where(side == 1, image_tokens, 0)
            end = tl.where(opened > 0, tl.where(side == 1, tokens, image_tokens), first)
            lower = _rank(ordered + sample * tokens, mine, first, end, BLOCK, SOURCES)
            weak = weak | (lower < tl.floor(count * ratio + 0.5)).to(tl.int32)
        strength = tl.where(weak > 0, 1.0 - score, 0.0)
    return tl.where(opened > 0, strength, 0.0)


@triton.jit
def _look_up(
    projected,
    prior,
    query,
    first,
    end,
    stop,
    width,
    KEY_AT: tl.constexpr,
    RANK: tl.constexpr,
    RANK_PADDED: tl.constexpr,
    TOP_K: tl.constexpr,
    KEPT_PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    SOURCES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return the TOP_K + 1 best similarities of each query over a sample's sources, and where these are; -1 for none."""
    best = tl.full((BLOCK, KEPT_PADDED), ABSENT, tl.float32)
    pick = tl.full((BLOCK, KEPT_PADDED), -1, tl.int32)
    rank = tl.arange(0, RANK_PADDED)
    for start in range(first, stop, SOURCES):
        source = start + tl.arange(0, SOURCES)
        listed = source < end
        key = tl.load(
            projected + source[None, :] * width + KEY_AT + rank[:, None],
            mask=listed[None, :] & (rank < RANK)[:, None],
            other=0.0,
        )
        log_density = tl.load(prior + source, mask=listed, other=ABSENT)
        similarity = tl.dot(query, key, input_precision=PRECISION) + log_density[None, :]
        similarity = tl.where((log_density > EXISTS)[None, :], similarity, ABSENT)
        best, pick = _merge_best(best, pick, similarity, source, TOP_K + 1, KEPT_PADDED)
    return best, pick


@triton.jit
def _shares(best, TOP_K: tl.constexpr, KEPT_PADDED: tl.constexpr):
    """Return the softmax over the first TOP_K similarities, and how far the best is ahead; 0 without a runner-up."""
    column = tl.arange(0, KEPT_PADDED)[None, :]
    highest = tl.max(best, 1)
    share = tl.where(column < TOP_K, tl.exp(best - highest[:, None]), 0.0)
    runner_up = tl.sum(tl.where(column == 1, best, 0.0), 1)
    gap = tl.where(runner_up > EXISTS, highest - runner_up, 0.0)
    return share / tl.sum(share, 1)[:, None], gap


@triton.jit
def _gather(
    values,
    places,
    indices,
    share,
    pick,
    is_open,
    inside,
    width,
    RANK: tl.constexpr,
    RANK_PADDED: tl.constexpr,
    TOP_K: tl.constexpr,
    KEPT_PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Return the weighted sum of the sources' `values`, (tokens, RANK_PADDED), and write the sources' positions."""
    column = tl.arange(0, KEPT_PADDED)[None, :]
    rank = tl.arange(0, RANK_PADDED)
    context = tl.zeros((BLOCK, RANK_PADDED), tl.float32)
    for turn in tl.static_range(TOP_K):
        chosen = tl.sum(tl.where(column == turn, pick, 0), 1)
        part = tl.sum(tl.where(column == turn, share, 0.0), 1)
        found = is_open & (chosen >= 0)
        position = tl.load(places + chosen, mask=found, other=-1)
        tl.store(indices + turn, position, mask=inside)
        value = tl.load(
            values + chosen[:, None] * width + rank[None, :],
            mask=found[:, None] & (rank < RANK)[None, :],
            other=0.0,
        )
        context += part[:, None] * value
    return context


@triton.jit
def _write_rows(
    embeds,
    routed,
    up,
    blend,
    row,
    placed,
    gate,
    context,
    hidden,
    RANK: tl.constexpr,
    RANK_PADDED: tl.constexpr,
    MERGE: tl.constexpr,
    CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write rows, those with an open gate enriched and the others as they were; ``up`` and ``blend`` are the side's."""
    rank = tl.arange(0, RANK_PADDED)
    for start in range(0, hidden, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        present = channel < hidden
        cell = row[:, None] + channel[None, :]
        mask = placed[:, None] & present[None, :]
        given = tl.load(embeds + cell, mask=mask, other=0.0)
        x = given.to(tl.float32)
        weight = tl.load(
            up + rank[:, None] * hidden + channel[None, :],
            mask=(rank < RANK)[:, None] & present[None, :],
            other=0.0,
        )
        update = tl.dot(context, weight, input_precision=PRECISION)
        if MERGE == "interpolate":
            rate = tl.load(blend + channel, mask=present, other=0.0)
            update = rate[None, :] * (update - x)
        out = (x + gate[:, None] * update).to(given.dtype)
        tl.store(routed + cell, tl.where((gate > 0)[:, None], out, given), mask=mask)


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
    edge,
    slope,
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
    LEARNED_GATE: tl.constexpr,
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
    side, token, inside = tile_of(tl.program_id(0), image_tokens, tokens, BLOCK)
    usable, opened = _side_is_open(summary, sample, side, TO_IMAGE, TO_TEXT, AUTO)
    at = sample * tokens + token
    place = tl.load(places + at, mask=inside, other=-1)
    valid = (place >= 0) & (usable > 0)
    score = tl.where(valid, tl.load(density + at, mask=inside, other=0.0), 0.0)
    # One argument a line would hide the steps.
    # fmt: off
    gate = _gate(
        ordered, summary, score, at, inside, sample, side, opened, image_tokens, tokens, edge, slope,
        ratio, threshold, BY_RATIO, BY_THRESHOLD, LEARNED_GATE, BLOCK, SOURCES,
    )
    gate = tl.where(valid, gate, 0.0)
    is_open = gate > 0
    tl.store(scores + at, score, mask=inside)
    tl.store(gates + at, gate, mask=inside)

    rank = tl.arange(0, RANK_PADDED)
    width = COLUMNS + RANK
    mine = projected + at[:, None] * width + rank[None, :]
    wanted = is_open[:, None] & (rank < RANK)[None, :]
    query = tl.load(mine, mask=wanted, other=0.0)
    first = tl.where(side == 1, 0, image_tokens)
    end = tl.where(side == 1, image_tokens, tokens)
    # Nothing is looked up where the tile has nothing to enrich.
    stop = tl.where(tl.max(gate, 0) > 0, end, first)
    ours = projected + sample * tokens * width
    best, pick = _look_up(
        ours, prior + sample * tokens, query, first, end, stop, width,
        KEY_AT, RANK, RANK_PADDED, TOP_K, KEPT_PADDED, BLOCK, SOURCES, PRECISION,
    )
    share, gap = _shares(best, TOP_K, KEPT_PADDED)
    tl.store(margin + at, tl.where(is_open, gap, 0.0), mask=inside)
    context = _gather(
        ours + COLUMNS, places + sample * tokens, indices + at * TOP_K, share, pick, is_open, inside, width,
        RANK, RANK_PADDED, TOP_K, KEPT_PADDED, BLOCK,
    )
    if MERGE == "concat":
        context += tl.load(mine + OWN_AT, mask=wanted, other=0.0)
    _write_rows(
        embeds, routed, up + side * RANK * hidden, blend + side * hidden,
        (sample * length + place) * hidden, place >= 0, gate, context, hidden,
        RANK, RANK_PADDED, MERGE, CHANNELS, PRECISION,
    )
    # fmt: on


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
