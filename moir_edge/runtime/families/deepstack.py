"""DeepStack: features of several layers of the tower, added to the decoder's hidden states at the image tokens.

A router leaves them alone. It enriches the embeddings that enter the decoder; these features are added to what its first
layers make of them, image tokens only, and there are none of the text that they could be matched with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import Field

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.runtime.interface import (
    DecoderInputs,
    Embeds,
    Floats,
    ImageFeatures,
    PromptArrays,
    Sessions,
)

__all__ = [
    "DEEPSTACK_EMBEDS",
    "MOST_LEVELS",
    "Levels",
    "joined_features",
    "with_deepstack",
]

DEEPSTACK_EMBEDS = "deepstack_embeds"
"""What `vision` gives, (…, levels, hidden) with a row for each image token, and `decoder` takes, (batch, sequence, levels,
hidden) with zeros for all other tokens."""

MOST_LEVELS = 16
"""Blocks of a tower that are tapped at most; models in use have 3."""

Levels = Annotated[int, Field(ge=1, le=MOST_LEVELS)]
"""How many blocks of the tower are tapped."""


def joined_features(runs: Sequence[Mapping[str, Embeds]], sessions: Sessions) -> ImageFeatures:
    """Return image features and DeepStack features of all runs of `vision`.

    Args:
        runs: The outputs of each run, in order.
        sessions: Where the outputs lie.
    """
    features, taps = (
        sessions.joined([run[name] for run in runs])
        for name in ("image_features", DEEPSTACK_EMBEDS)
    )
    return ImageFeatures(features=features, further={DEEPSTACK_EMBEDS: taps})


def with_deepstack(
    decoder: DecoderInputs,
    prompt: PromptArrays,
    features: ImageFeatures | None,
    sessions: Sessions,
    *,
    facts: ModelFacts,
    levels: int,
) -> DecoderInputs:
    """Add the DeepStack features at the image tokens of a batch, and zeros for each generated token.

    Args:
        decoder: What the decoder takes besides.
        prompt: The encoded batch.
        features: From `joined_features`; None without images.
        sessions: Where the features lie.
        facts: What the manifest says of the model.
        levels: How many layers of the tower are tapped.
    """
    batch, sequence = prompt.input_ids.shape
    embeds: Floats = np.zeros((batch, sequence, levels, facts.hidden_size), np.float32)
    if features is not None:
        taps = sessions.to_numpy(features.further[DEEPSTACK_EMBEDS])
        embeds[prompt.input_ids == facts.image_token_id] = taps.reshape(-1, *embeds.shape[2:])
    step = np.zeros((batch, 1, *embeds.shape[2:]), np.float32)
    return replace(
        decoder,
        further={**decoder.further, DEEPSTACK_EMBEDS: embeds},
        step={**decoder.step, DEEPSTACK_EMBEDS: step},
    )
