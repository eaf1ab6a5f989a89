"""Gemma 3 and PaliGemma: square images, and prompts in which blocks of tokens see each other in both directions."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from moir_edge.runtime.families.base import ImageTokens
from moir_edge.runtime.families.registry import register
from moir_edge.runtime.families.tiles import TileFamily
from moir_edge.runtime.image_processor import ImageShape
from moir_edge.runtime.interface import DecoderInputs, ImageFeatures, Ints, PromptArrays, Sessions
from moir_edge.runtime.positions import token_positions

__all__ = ["Gemma3", "PaliGemma"]

_CAUSAL = -1


@register
class Gemma3(TileFamily):
    """Gemma 3: one square for each image between two tokens, and the tokens of an image see each other."""

    model_types: ClassVar[tuple[str, ...]] = ("gemma3",)

    def image_mark(self, tokens: ImageTokens) -> str:
        """Return the token that begins an image: templates write it, not the image token."""
        return tokens.special_tokens.get("boi_token", "<start_of_image>")

    def placeholders(self, tokens: ImageTokens, image: ImageShape) -> str:
        """Return the image tokens between their two marks, apart from the text by empty lines."""
        del image
        end = tokens.special_tokens.get("eoi_token", "<end_of_image>")
        return f"\n\n{self.image_mark(tokens)}{self.run(tokens)}{end}\n\n"

    def decoder_inputs(
        self, inputs: PromptArrays, features: ImageFeatures | None, sessions: Sessions
    ) -> DecoderInputs:
        """Return each run of image tokens as a block."""
        del features, sessions
        plain = DecoderInputs.of_mask(inputs.attention_mask)
        blocks = _runs(inputs.input_ids == self.facts.image_token_id)
        return _with_blocks(plain, blocks)


@register
class PaliGemma(TileFamily):
    """PaliGemma: all images, the start token, the words and a line end; the prompt is one block, the answer is causal."""

    model_types: ClassVar[tuple[str, ...]] = ("paligemma",)
    writes_start: ClassVar[bool] = True

    def placeholders(self, tokens: ImageTokens, image: ImageShape) -> str:
        """Return the run of the one tile."""
        del image
        return self.run(tokens)

    def prompt(self, text: str, tokens: ImageTokens) -> str:
        """Put the start token behind the last image, and a line end behind the words."""
        last = text.rfind(tokens.image)
        head = 0 if last < 0 else last + len(tokens.image)
        start = tokens.special_tokens.get("bos_token", "<bos>")
        return f"{text[:head]}{start}{text[head:]}\n"

    def decoder_inputs(
        self, inputs: PromptArrays, features: ImageFeatures | None, sessions: Sessions
    ) -> DecoderInputs:
        """Return the whole prompt as one block; positions count from 1."""
        del features, sessions
        mask = inputs.attention_mask
        positions = self.torch_positions(mask)
        plain = DecoderInputs(
            attention_mask=mask, position_ids=positions, next_positions=mask.sum(axis=1) + 1
        )
        return _with_blocks(plain, np.where(mask == 1, 0, _CAUSAL))

    def torch_positions(self, attention_mask: Ints) -> Ints:
        """Return positions that count from 1, as the model's own do."""
        positions: Ints = token_positions(attention_mask) + 1
        return positions


def _with_blocks(plain: DecoderInputs, blocks: Ints) -> DecoderInputs:
    """Add the number of each token's block; a generated token is of none."""
    step = np.full((len(blocks), 1), _CAUSAL, dtype=np.int64)
    return DecoderInputs(
        attention_mask=plain.attention_mask,
        position_ids=plain.position_ids,
        next_positions=plain.next_positions,
        further={"attention_blocks": blocks.astype(np.int64)},
        step={"attention_blocks": step},
    )


def _runs(flags: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Ints:
    """Number the runs of True in each row from 0; -1 where False."""
    starts = flags & ~np.pad(flags, ((0, 0), (1, 0)))[:, :-1]
    numbers: Ints = np.where(flags, np.cumsum(starts, axis=1) - 1, _CAUSAL)
    return numbers
