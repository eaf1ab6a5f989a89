"""Base of the families: what lies between the image processor and the graphs, and what the decoder takes besides embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.errors import DataError
from moir_edge.runtime.image_processor import ImageShape, ProcessedImage, View
from moir_edge.runtime.interface import (
    Array,
    DecoderInputs,
    Embeds,
    Floats,
    ImageFeatures,
    Ints,
    PromptArrays,
    Sessions,
)
from moir_edge.runtime.positions import token_positions

__all__ = ["Family", "ImageTokens", "pixels_and_sizes"]


@dataclass(frozen=True, kw_only=True)
class ImageTokens:
    """The strings that the text in place of an image is made of.

    Attributes:
        image: The image token, one per row of image features.
        special_tokens: Named special tokens of the tokenizer.
    """

    image: str
    special_tokens: Mapping[str, str]


def pixels_and_sizes(
    inputs: Mapping[str, Array],
) -> tuple[Array, list[tuple[int, int]]] | None:
    """Return the pixels and sizes (height, width) of images that a Hugging Face processor filled up to one size; None without images.

    Args:
        inputs: The processor's arrays by name.

    Raises:
        DataError: The sizes are missing.
    """
    pixels = inputs.get("pixel_values")
    if pixels is None:
        return None
    if "image_sizes" not in inputs:
        raise DataError("pixel_values came without image_sizes; take both from one processor call")
    return pixels, [(int(height), int(width)) for height, width in inputs["image_sizes"]]


class Family(ABC):
    """Computations of the host for the model types of one family.

    Args:
        facts: What the manifest says of the model; `facts.family` holds the family's own settings.

    Attributes:
        model_types: The Hugging Face `model_type`s of the family.
        writes_start: Whether `prompt` writes the start token, so that the tokenizer must not.

    Raises:
        BundleError: A setting of the family is missing or out of range.
    """

    model_types: ClassVar[tuple[str, ...]]
    writes_start: ClassVar[bool] = False

    def __init__(self, facts: ModelFacts) -> None:
        self.facts = facts

    def image_mark(self, tokens: ImageTokens) -> str:
        """Return what a chat template writes for one image; here the image token itself."""
        return tokens.image

    def prompt(self, text: str, tokens: ImageTokens) -> str:
        """Return a rendered prompt as the family's processor completes it, one mark for each image; here as it is."""
        del tokens
        return text

    def image_settings(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return an image processor's settings as the family's processor uses it; here as its file has them."""
        return record

    @abstractmethod
    def placeholders(self, tokens: ImageTokens, image: ImageShape) -> str:
        """Return the text that replaces one mark of an image in a rendered prompt."""

    @abstractmethod
    def token_count(self, image: ImageShape) -> int:
        """Return how many image tokens an image becomes."""

    def views(self, image: ImageShape) -> tuple[View, ...]:
        """Return an image's blocks of image tokens in the order of the prompt; here those that its processor knows."""
        return image.views

    @abstractmethod
    def sample_image(self, random: np.random.Generator) -> ProcessedImage:
        """Return one small smooth picture as the image processor would make it, for parity samples."""

    @abstractmethod
    def from_transformers(
        self, inputs: Mapping[str, Array], input_ids: Ints
    ) -> tuple[Floats, tuple[ImageShape, ...]] | None:
        """Read what a Hugging Face processor made: pixels and the images' shapes; None without images.

        Args:
            inputs: The processor's arrays by name.
            input_ids: (batch, sequence) int64.

        Raises:
            DataError: Images and image tokens do not fit.
        """

    def vision_feeds(
        self, pixels: Floats, images: Sequence[ImageShape], most: int
    ) -> Iterator[Mapping[str, Array]]:
        """Yield the inputs of each run of `vision`.

        Args:
            pixels: The pixel values of all images in order; here (tiles, 3, height, width).
            images: Their shapes.
            most: Tiles that one run takes at most.
        """
        del images
        for start in range(0, len(pixels), most):
            yield {"pixel_values": pixels[start : start + most]}

    def assembled(
        self,
        runs: Sequence[Mapping[str, Embeds]],
        images: Sequence[ImageShape],
        sessions: Sessions,
    ) -> ImageFeatures:
        """Put what the runs of `vision` gave in the order of the prompt's image tokens.

        Args:
            runs: The outputs of each run, in order.
            images: The images' shapes.
            sessions: Where the outputs lie.
        """
        del images
        return ImageFeatures(features=sessions.joined([run["image_features"] for run in runs]))

    def decoder_inputs(
        self, inputs: PromptArrays, features: ImageFeatures | None, sessions: Sessions
    ) -> DecoderInputs:
        """Return what the decoder takes of a prompt besides its embeddings.

        Args:
            inputs: The encoded batch.
            features: From `assembled`; None without images.
            sessions: Where the features lie.
        """
        del features, sessions
        return DecoderInputs.of_mask(inputs.attention_mask)

    def torch_positions(self, attention_mask: Ints) -> Ints | None:
        """Return the positions that a Hugging Face forward takes, or None where the model finds its own."""
        return token_positions(attention_mask)

    def settings(self) -> Mapping[str, Any]:
        """Return the family's own settings, as the manifest has them."""
        return self.facts.family
