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

from moir_edge.runtime.families.base import Family
from moir_edge.runtime.image_processor import ImageShape
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
    "DeepstackFamily",
    "Levels",
]

DEEPSTACK_EMBEDS = "deepstack_embeds"
"""What `vision` gives, (…, levels, hidden) with a row for each image token, and `decoder` takes, (batch, sequence, levels,
hidden) with zeros for all other tokens."""

MOST_LEVELS = 16
"""Blocks of a tower that are tapped at most; models in use have 3."""

Levels = Annotated[int, Field(ge=1, le=MOST_LEVELS)]
"""How many blocks of the tower are tapped."""


class DeepstackFamily(Family):
    """A family whose decoder takes DeepStack features of all tokens; put it before the family that knows the images.

    Attributes:
        levels: How many blocks of the tower are tapped.
    """

    levels: int

    def assembled(
        self,
        runs: Sequence[Mapping[str, Embeds]],
        images: Sequence[ImageShape],
        sessions: Sessions,
    ) -> ImageFeatures:
        """Return the features of all runs of `vision`, those of DeepStack besides."""
        del images
        features, taps = (
            sessions.joined([run[name] for run in runs])
            for name in ("image_features", DEEPSTACK_EMBEDS)
        )
        return ImageFeatures(features=features, further={DEEPSTACK_EMBEDS: taps})

    def decoder_inputs(
        self, inputs: PromptArrays, features: ImageFeatures | None, sessions: Sessions
    ) -> DecoderInputs:
        """Add the DeepStack features at the image tokens of a batch, and zeros for each generated token."""
        decoder = super().decoder_inputs(inputs, features, sessions)
        rows = (self.levels, self.facts.hidden_size)
        embeds: Floats = np.zeros((*inputs.input_ids.shape, *rows), np.float32)
        if features is not None:
            taps = sessions.to_numpy(features.further[DEEPSTACK_EMBEDS])
            at = inputs.input_ids == self.facts.image_token_id
            embeds[at] = taps.reshape(-1, *rows)
        step = np.zeros((len(embeds), 1, *rows), np.float32)
        return replace(
            decoder,
            further={**decoder.further, DEEPSTACK_EMBEDS: embeds},
            step={**decoder.step, DEEPSTACK_EMBEDS: step},
        )
