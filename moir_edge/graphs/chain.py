"""Run the graphs of a folder one after another in ONNX Runtime, as the device's runtime does: for parity and calibration."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from moir_edge.bundle import ModelFacts
from moir_edge.errors import NotFiniteError
from moir_edge.finite import count_text, is_finite
from moir_edge.router.positions import prompt_positions
from moir_edge.runtime.float4 import session_source
from moir_edge.targets import session_config
from moir_edge.threads import session_options

__all__ = ["TAP_PREFIX", "ChainStep", "GraphChain", "Watch"]

TAP_PREFIX = "tap/"
"""How the names of outputs begin that only a watcher reads."""

Array = npt.NDArray[Any]

Watch = Callable[[str, Mapping[str, Array]], None]
"""Called as ``watch(component, values)`` after each run, with the tapped values by name without `TAP_PREFIX`."""


@dataclass(frozen=True, kw_only=True)
class ChainStep:
    """Outputs of one pass, and what the next one needs.

    Attributes:
        logits: (batch, vocab) float32, of the last position.
        cache: Keys and values by output name without ``present.``.
        mask: (batch, total_sequence) attention mask so far.
        image_features: (images, tokens, hidden), or None.
        text_embeds: (batch, sequence, hidden), straight from `embedding`; after `start` what it was given.
        routing: The router's outputs by name, or None where nothing was routed.
    """

    logits: Array
    cache: Mapping[str, Array]
    mask: Array
    image_features: Array | None = None
    text_embeds: Array
    routing: Mapping[str, Array] | None = None

    def greedy(self, where: str) -> npt.NDArray[np.int64]:
        """Return each row's most likely token, (batch,); the largest of NaN means nothing.

        Args:
            where: What ran, for the message.

        Raises:
            NotFiniteError: A logit is NaN or infinite.
        """
        if not is_finite(self.logits):
            raise NotFiniteError(
                f"{where}: of the decoder's logits, {count_text(self.logits)}; "
                "its weights are damaged or its precision is too narrow"
            )
        return np.asarray(self.logits.argmax(axis=-1), np.int64)


class GraphChain:
    """Sessions of every component of a folder.

    Args:
        folder: Holds ``<component>.onnx``.
        precisions: Component name to precision.
        facts: The model's facts.
        watch: Gets the tapped values of every run.
        tiles_per_run: Image tiles that `vision` takes at once; bounds what a watcher gets.
        session_entries: Further configuration entries of every session.

    Attributes:
        further_inputs: Component name to inputs that its graph has besides the interface, fed at every run.
    """

    def __init__(
        self,
        folder: Path,
        precisions: Mapping[str, str],
        facts: ModelFacts,
        *,
        watch: Watch | None = None,
        tiles_per_run: int = 16,
        session_entries: Mapping[str, str] | None = None,
    ) -> None:
        self.further_inputs: Mapping[str, Mapping[str, Array]] = {}
        self._entries = session_entries or {}
        self._facts = facts
        self._watch = watch
        self._tiles_per_run = tiles_per_run
        self._sessions = {
            name: _session(folder / f"{name}.onnx", name, precision, self._entries)
            for name, precision in precisions.items()
        }

    def replaced(self, folder: Path, precisions: Mapping[str, str]) -> GraphChain:
        """Return a chain that takes the named components from another folder and shares the other sessions."""
        chain = copy.copy(self)
        chain._sessions = self._sessions | {
            name: _session(folder / f"{name}.onnx", name, precision, self._entries)
            for name, precision in precisions.items()
        }
        chain.further_inputs = {}
        return chain

    def prefill(self, input_ids: Array, mask: Array, tiles: Array) -> ChainStep:
        """Run the prompt.

        Args:
            input_ids: (batch, sequence) int64, padded on the left.
            mask: (batch, sequence) int64.
            tiles: (images, 3, height, width) float32, in the order of their tokens; may have no rows.
        """
        text = self.embed(input_ids)
        features = self.image_features(tiles) if len(tiles) else None
        embeds, routing = self.prompt_embeds(text, features, input_ids, mask)
        step = self.start(embeds, mask)
        return replace(step, image_features=features, text_embeds=text, routing=routing)

    def step(self, previous: ChainStep, token_ids: Array) -> ChainStep:
        """Append one token, (batch, 1) int64, to each row."""
        return self.advance(previous, self.embed(token_ids))

    def embed(self, input_ids: Array) -> Array:
        """Return the embeddings of tokens, (batch, sequence, hidden) for (batch, sequence)."""
        return self._run("embedding", {"input_ids": input_ids})["inputs_embeds"]

    def image_features(self, tiles: Array) -> Array:
        """Return (images, tokens, hidden) for (images, 3, height, width), at least one image."""
        size = self._tiles_per_run
        parts = [tiles[start : start + size] for start in range(0, len(tiles), size)]
        return np.concatenate(
            [self._run("vision", {"pixel_values": part})["image_features"] for part in parts]
        )

    def prompt_embeds(
        self, text: Array, features: Array | None, input_ids: Array, mask: Array
    ) -> tuple[Array, Mapping[str, Array] | None]:
        """Place image features and route: return what enters the decoder, and the router's outputs or None.

        Args:
            text: From `embed`.
            features: From `image_features`, or None.
            input_ids: (batch, sequence) int64, padded on the left.
            mask: (batch, sequence) int64.
        """
        embeds = _place_features(text, input_ids == self._facts.image_token_id, features)
        routing = self._route(embeds, input_ids, mask) if features is not None else None
        return (embeds if routing is None else routing["routed_embeds"]), routing

    def start(self, embeds: Array, mask: Array) -> ChainStep:
        """Run the decoder on a prompt's embeddings, from `prompt_embeds`."""
        logits, cache = self._decode(embeds, mask, _positions(mask), self._empty_cache(len(mask)))
        return ChainStep(logits=logits, cache=cache, mask=mask, text_embeds=embeds)

    def advance(self, previous: ChainStep, text: Array) -> ChainStep:
        """Append one token's embedding, (batch, 1, hidden), to each row."""
        mask = np.concatenate([previous.mask, np.ones(text.shape[:2], np.int64)], axis=1)
        logits, cache = self._decode(text, mask, _positions(mask)[:, -1:], previous.cache)
        return ChainStep(logits=logits, cache=cache, mask=mask, text_embeds=text)

    def _route(self, embeds: Array, input_ids: Array, mask: Array) -> dict[str, Array] | None:
        if "router" not in self._sessions:
            return None
        facts = self._facts
        places = prompt_positions(
            input_ids,
            mask,
            facts.image_token_id,
            facts.special_token_ids,
            facts.newline_token_ids,
        )
        return self._run("router", {"inputs_embeds": embeds, **places._asdict()})

    def _decode(
        self, embeds: Array, mask: Array, positions: Array, cache: Mapping[str, Array]
    ) -> tuple[Array, dict[str, Array]]:
        past = {f"past_key_values.{name}": value for name, value in cache.items()}
        feed = {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions}
        outputs = self._run("decoder", feed | past)
        logits = outputs.pop("logits")[:, 0]
        return logits, {name.removeprefix("present."): value for name, value in outputs.items()}

    def _empty_cache(self, batch: int) -> dict[str, Array]:
        facts = self._facts
        empty = np.zeros((batch, facts.num_kv_heads, 0, facts.head_dim), np.float32)
        return {
            f"{layer}.{part}": empty
            for layer in range(facts.num_layers)
            for part in ("key", "value")
        }

    def _run(self, name: str, feed: Mapping[str, Array]) -> dict[str, Array]:
        session = self._sessions[name]
        names = [output.name for output in session.get_outputs()]
        inputs = {**feed, **self.further_inputs.get(name, {})}
        outputs = dict(zip(names, session.run(names, inputs), strict=True))
        taps = [output for output in names if output.startswith(TAP_PREFIX)]
        tapped = {output.removeprefix(TAP_PREFIX): outputs.pop(output) for output in taps}
        if self._watch is not None:
            self._watch(name, tapped)
        return outputs


def _session(
    path: Path, component: str, precision: str, entries: Mapping[str, str]
) -> ort.InferenceSession:
    options = session_options()
    config = {**session_config(component, precision, ort.__version__), **entries}
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(
        session_source(path, precision), options, providers=["CPUExecutionProvider"]
    )


def _place_features(text: Array, is_image: Array, features: Array | None) -> Array:
    """Put image features, in order, where the image tokens stand: (batch, sequence, hidden)."""
    if features is None:
        return text
    embeds = text.copy()
    embeds[is_image] = features.reshape(-1, features.shape[-1])
    return embeds


def _positions(mask: Array) -> Array:
    """Number the real tokens of each row from 0; padding takes 0."""
    positions: Array = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    return positions
