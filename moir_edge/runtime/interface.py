"""Interface between generation and what runs the four graphs: ONNX Runtime, or TensorRT's engines.

Embeddings pass from image to router to decoder without generation looking at them, so each implementation keeps them where it
computes. What is small and is needed here (logits, the router's figures) comes as numpy arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from moir_edge.runtime.image_processor import ImageShape
from moir_edge.runtime.positions import token_positions

__all__ = [
    "ROUTER_FIGURES",
    "Array",
    "ContinuingSessions",
    "DecoderInputs",
    "Embeds",
    "Floats",
    "ImageFeatures",
    "Ints",
    "PromptArrays",
    "RouterArrays",
    "Sessions",
    "cache_names",
]

ROUTER_FIGURES = ("router_scores", "router_indices", "router_margin", "router_gate")
"""Outputs of the graph `router` besides the embeddings."""

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Embeds: TypeAlias = Any
"""Float32 rows as wide as the language model, wherever they lie; they have a `shape`, and `to_numpy` copies them here."""


class PromptArrays(Protocol):
    """A batch of prompts as the graphs take it, padded on the left."""

    @property
    def input_ids(self) -> Ints:
        """(batch, sequence) int64."""

    @property
    def attention_mask(self) -> Ints:
        """(batch, sequence) int64, 0 at padding."""

    @property
    def pixel_values(self) -> Floats | None:
        """Float32, the tiles or patches of all images in order; None without images."""

    @property
    def images(self) -> Sequence[ImageShape]:
        """The shapes of the images of all rows, in order."""


@dataclass(frozen=True, kw_only=True)
class ImageFeatures:
    """Results of the runs of `vision`, in the order of the prompt's image tokens.

    Attributes:
        features: (…, hidden) float32, one row for each image token, wherever they lie.
        further: Other outputs by name, one row for each image token in each.
    """

    features: Embeds
    further: Mapping[str, Embeds] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DecoderInputs:
    """Inputs of the decoder for a batch of prompts, besides their embeddings.

    Attributes:
        attention_mask: (batch, sequence) int64, 0 at padding.
        position_ids: (batch, sequence) int64, or (axes, batch, sequence) under M-RoPE.
        next_positions: (batch,) int64, the position of each row's first generated token, on every axis.
        further: Inputs of the prompt besides, by name, each with an axis `sequence`.
        step: The same inputs for one generated token.
    """

    attention_mask: Ints
    position_ids: Ints
    next_positions: Ints
    further: Mapping[str, Array] = field(default_factory=dict)
    step: Mapping[str, Array] = field(default_factory=dict)

    def positions_after(self, steps: int) -> Ints:
        """Return the position of each row's next token after `steps` of them, (batch, 1), or (axes, batch, 1) as the prompt's are."""
        positions = (self.next_positions + steps)[:, None]
        return np.broadcast_to(positions, (*self.position_ids.shape[:-1], 1))

    def taken(self, places: Ints, attention_mask: Ints) -> DecoderInputs:
        """Return the inputs of some tokens of each row; positions stay what they were, and so do those of generated tokens.

        Args:
            places: (batch, kept), where the tokens stand; any place at padding.
            attention_mask: (batch, kept), 0 at padding, which gets what a generated token gets of `further`.
        """
        axes = self.position_ids.ndim - 2
        positions = np.take_along_axis(self.position_ids, places[(None,) * axes], axis=-1)
        return replace(
            self,
            attention_mask=attention_mask,
            position_ids=np.where(attention_mask == 1, positions, 0),
            further={
                name: _taken(array, self.step[name], places, attention_mask)
                for name, array in self.further.items()
            },
        )

    @classmethod
    def of_mask(cls, attention_mask: Ints) -> DecoderInputs:
        """Return the inputs of a model that counts its tokens one by one and takes nothing besides."""
        return cls(
            attention_mask=attention_mask,
            position_ids=token_positions(attention_mask),
            next_positions=attention_mask.sum(axis=1),
        )


def _taken(array: Array, padding: Array, places: Ints, attention_mask: Ints) -> Array:
    """Return (batch, kept, …) of (batch, sequence, …), with `padding` (batch, 1, …) where the mask is 0."""
    further = (1,) * (array.ndim - 2)
    found = np.take_along_axis(array, places.reshape(*places.shape, *further), axis=1)
    return np.where(attention_mask.reshape(*places.shape, *further) == 1, found, padding)


@dataclass(frozen=True, kw_only=True)
class RouterArrays:
    """Router outputs on one batch; first N image tokens, then M text tokens.

    Attributes:
        image_positions: (batch, N) int64, sequence positions, negative where the row has fewer.
        text_positions: (batch, M) int64, sequence positions.
        text_mask: (batch, M) bool, False where the row has fewer.
        scores: (batch, N + M) float32, information density in [0, 1].
        indices: (batch, N + M, k) int64, sequence positions of the sources, -1 where none.
        margin: (batch, N + M) float32, best minus runner-up similarity.
        gate: (batch, N + M) float32, 0 for tokens that were not routed.
    """

    image_positions: Ints
    text_positions: Ints
    text_mask: npt.NDArray[np.bool_]
    scores: Floats
    indices: Ints
    margin: Floats
    gate: Floats

    @classmethod
    def of(cls, places: Mapping[str, Any], figures: Iterable[npt.NDArray[Any]]) -> RouterArrays:
        """Join what the graph was given with its outputs in the order of `ROUTER_FIGURES`."""
        names = [name.removeprefix("router_") for name in ROUTER_FIGURES]
        return cls(**places, **dict(zip(names, figures, strict=True)))


def cache_names(prefix: str, layers: int) -> list[str]:
    """Return the decoder's names of keys and values, such as ``present.0.key``, layer by layer."""
    return [f"{prefix}.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]


class Sessions(Protocol):
    """Runs the components of one bundle; not safe to be called from two threads at once."""

    @property
    def provider(self) -> str:
        """The name by which `moir_edge.load` chooses it."""

    @property
    def backend(self) -> str:
        """Name and version of the library that computes, for reports."""

    def component_providers(self) -> dict[str, str]:
        """Return what runs each component, as the library says after loading; it may not be what was asked for."""

    @property
    def has_router(self) -> bool:
        """Whether the bundle holds a router."""

    def files(self) -> tuple[str, ...]:
        """Return the files of the bundle that hold the weights in use, relative to its folder, each once."""

    @property
    def tiles_per_run(self) -> int:
        """Image tiles that `vision` takes at once."""

    def run_vision(self, feed: Mapping[str, Array]) -> dict[str, Embeds]:
        """Run `vision` once and return its outputs by name."""

    def joined(self, parts: Sequence[Embeds]) -> Embeds:
        """Return arrays one after the other along their first axis."""

    def embed(self, input_ids: Ints) -> Embeds:
        """Return (batch, sequence, hidden) for input ids (batch, sequence)."""

    def place(self, embeds: Embeds, features: Embeds, at: npt.NDArray[np.bool_]) -> Embeds:
        """Put image features (…, hidden) where `at` (batch, sequence) is True, in order.

        `embeds` is not to be used afterwards; there are as many image tokens as places.
        """

    def take(self, embeds: Embeds, places: Ints) -> Embeds:
        """Return (batch, kept, hidden), the tokens of each row that stand at `places` (batch, kept)."""

    def route(
        self,
        inputs_embeds: Embeds,
        image_positions: Ints,
        text_positions: Ints,
        text_mask: npt.NDArray[np.bool_],
    ) -> tuple[Embeds, RouterArrays]:
        """Return the enriched embeddings (batch, sequence, hidden) and what the router did.

        Raises:
            UnsupportedError: The bundle holds no router.
        """

    def prefill(self, inputs_embeds: Embeds, decoder: DecoderInputs) -> tuple[Floats, Any]:
        """Run the prompt.

        Args:
            inputs_embeds: (batch, sequence, hidden), left-padded.
            decoder: What the decoder takes besides.

        Returns:
            Logits of the last position, (batch, vocab), and the state to go on from, which owns the cache.
        """

    def decode(self, token_ids: Ints, state: Any) -> Floats:
        """Feed one token per row, (batch,), and return the next logits, (batch, vocab)."""

    def to_numpy(self, embeds: Embeds) -> Floats:
        """Copy embeddings to the host."""

    def from_numpy(self, embeds: Floats) -> Embeds:
        """Return embeddings of the host, (batch, sequence, hidden), where `route` and `prefill` take them."""

    def memory(self) -> dict[str, int]:
        """Return the bytes that it holds on a device of its own, by purpose; empty where it has none to report."""


@runtime_checkable
class ContinuingSessions(Protocol):
    """Sessions that may go on from an earlier prompt."""

    @property
    def continues(self) -> bool:
        """Whether `continue_from` can go on from an earlier prompt."""

    def continue_from(
        self, state: Any, known: int, inputs_embeds: Embeds, decoder: DecoderInputs
    ) -> tuple[Floats, Any]:
        """Run a prompt of one row that begins as an earlier one did.

        Args:
            state: Of the earlier prompt; its cache goes over to the new state, and it is of no use afterwards.
            known: How many tokens, fewer than the prompt has, are at the start of both with the same embeddings, positions and
                further inputs.
            inputs_embeds: (1, sequence, hidden), the whole prompt.
            decoder: What the decoder takes of the whole prompt besides.

        Returns:
            What `Sessions.prefill` returns.
        """
