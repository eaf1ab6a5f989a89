"""Shorten a routed prompt: which tokens of each row stay, and the decoder's inputs of those."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moir_edge.errors import DataError
from moir_edge.runtime.pruning.selectors import ImageTokens
from moir_edge.runtime.pruning.settings import Pruning

if TYPE_CHECKING:
    from moir_edge.runtime.interface import (
        DecoderInputs,
        Embeds,
        Floats,
        Ints,
        PromptArrays,
        RouterArrays,
        Sessions,
    )

__all__ = ["Pruned", "prune_prompt"]


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """A batch of prompts without some of their image tokens.

    Attributes:
        embeds: (batch, kept, hidden) float32, padded on the left, where the sessions keep them.
        decoder: What the decoder takes besides; each token has the position that it had.
        dropped: Per row, the places in the padded sequence of the image tokens that were dropped.
    """

    embeds: Embeds
    decoder: DecoderInputs
    dropped: tuple[Ints, ...]


def prune_prompt(
    sessions: Sessions,
    image_token_id: int,
    inputs: PromptArrays,
    embeds: Embeds,
    decoder: DecoderInputs,
    routing: RouterArrays | None,
    pruning: Pruning,
) -> Pruned:
    """Drop a share of each row's image tokens; all others stay in their order.

    Args:
        sessions: Where the embeddings lie.
        image_token_id: Of the prompt.
        inputs: The encoded batch.
        embeds: (batch, sequence, hidden), after the router.
        decoder: What the decoder takes of the whole prompts besides.
        routing: What the router did; None where it did nothing.
        pruning: How many are dropped, and how they are chosen.

    Raises:
        DataError: The selector needs the density of tokens, and the router gave a row none.
    """
    mask = inputs.attention_mask
    images = (inputs.input_ids == image_token_id) & (mask == 1)
    stays = mask == 1
    rows = sessions.to_numpy(embeds) if images.any() else None
    dropped = []
    for row, own in enumerate(images):
        places = np.flatnonzero(own)
        keep = pruning.kept(len(places))
        gone = places[:0]
        if rows is not None and keep < len(places):
            tokens = ImageTokens(
                embeds=rows[row, places],
                density=_density(routing, row) if pruning.needs_density else None,
                seed=pruning.seed,
            )
            gone = np.delete(places, pruning.selector(tokens, keep))
        stays[row, gone] = False
        dropped.append(gone.astype(np.int64))
    if not any(map(len, dropped)):
        return Pruned(embeds=embeds, decoder=decoder, dropped=tuple(dropped))
    places, kept_mask = _packed(stays)
    return Pruned(
        embeds=sessions.take(embeds, places),
        decoder=decoder.taken(places, kept_mask),
        dropped=tuple(dropped),
    )


def _density(routing: RouterArrays | None, row: int) -> Floats:
    """Return the scores of a row's image tokens, in order.

    Raises:
        DataError: There are none.
    """
    if routing is None or not routing.text_mask[row].any():
        raise DataError(
            "a prompt has no words besides its images, so the router gives no density to drop image tokens by; "
            "add words, or choose by another `prune_by`"
        )
    own = routing.image_positions[row]
    found: Floats = routing.scores[row, : len(own)][own >= 0]
    return found


def _packed(stays: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> tuple[Ints, Ints]:
    """Return the places of the tokens that stay, (batch, kept), padded on the left by place 0, and their mask."""
    counts = stays.sum(axis=1)
    width = int(counts.max())
    places = np.zeros((len(stays), width), np.int64)
    mask = np.zeros_like(places)
    for row, count in enumerate(counts):
        places[row, width - count :] = np.flatnonzero(stays[row])
        mask[row, width - count :] = 1
    return places, mask
