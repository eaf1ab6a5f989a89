"""The bundle's graphs on a CPU by OpenVINO: `vision` as it is, `decoder` with its cache as state of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moir_edge.errors import BundleError, UnsupportedError, one_line
from moir_edge.precisions import PRECISIONS
from moir_edge.runtime.interface import Array, DecoderInputs, Embeds, Floats, Ints, RouterArrays
from moir_edge.runtime.openvino.compiled import CompiledComponent, compile_component
from moir_edge.runtime.openvino.library import (
    load_openvino,
    roundings,
    settings_of,
    version_text,
)
from moir_edge.runtime.openvino.stateful import BEAM_INPUT
from moir_edge.runtime.sessions import GraphSessions
from moir_edge.targets import get_target
from moir_edge.threads import checked_threads

if TYPE_CHECKING:
    from moir_edge.bundle import Bundle

__all__ = ["OpenVinoSessions", "OpenVinoState"]


@dataclass
class OpenVinoState:
    """A batch between two calls of the decoder.

    Attributes:
        request: The request whose state is the key-value cache; no other batch uses it.
        attention_mask: (batch, past_sequence) int64.
        prompt: What the decoder took of the prompt.
        steps: Tokens that were generated.
    """

    request: Any
    attention_mask: Ints
    prompt: DecoderInputs
    steps: int = 0


class OpenVinoSessions:
    """Runs `vision` and `decoder` by OpenVINO, `embedding` and `router` by ONNX Runtime; see `moir_edge.runtime.interface.Sessions`.

    OpenVINO reads no graph with functions, as the router is, and gives wrong embeddings for quantized tables, without a word.

    Args:
        bundle: An opened bundle.
        threads: Threads of one operator; None takes one per physical core.
        fast: Let OpenVINO round, as `settings_of` says.

    Raises:
        EnvironmentProblem: OpenVINO is missing, too old, or does not run here.
        UnsupportedError: The bundle's graphs are those of a GPU.
        BundleError: A component is missing, or its graph cannot be loaded.
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None, fast: bool = False) -> None:
        openvino = load_openvino()
        self.provider: str = "openvino-fast" if fast else "openvino"
        _check_target(bundle, self.provider)
        settings = settings_of(fast=fast, threads=checked_threads(threads))
        compiled = {
            name: CompiledComponent(
                compile_component(openvino, bundle, name, settings), str(bundle.graph(name))
            )
            for name in ("decoder", "vision")
        }
        self._decoder = compiled["decoder"]
        self._graphs = GraphSessions.of(bundle, threads=threads, opened=compiled)
        precision = bundle.manifest.components["decoder"].precision
        self._notes = roundings(
            self._decoder.compiled.model, quantized=PRECISIONS[precision].quantized
        )
        self._version = version_text(openvino)

    @property
    def backend(self) -> str:
        """OpenVINO's version, what it rounds besides the stored weights, and layers whose attention is not one operation."""
        notes = ", ".join(filter(None, [*self._notes, self._decoder.compiled.note]))
        return f"OpenVINO {self._version}" + (f" ({notes})" if notes else "")

    def component_providers(self) -> dict[str, str]:
        """Return what runs each component."""
        return self._graphs.component_providers()

    @property
    def has_router(self) -> bool:
        """Whether the bundle holds a router."""
        return self._graphs.has_router

    def files(self) -> tuple[str, ...]:
        """Return the graphs and their weights; components may share a file."""
        return self._graphs.files()

    @property
    def tiles_per_run(self) -> int:
        """Image tiles that `vision` takes at once."""
        return self._graphs.tiles_per_run

    def run_vision(self, feed: Mapping[str, Array]) -> dict[str, Floats]:
        """Run `vision` once and return its outputs by name."""
        return self._graphs.run_vision(feed)

    def joined(self, parts: Sequence[Floats]) -> Floats:
        """Return arrays one after the other along their first axis; a single one is not copied."""
        return self._graphs.joined(parts)

    def embed(self, input_ids: Ints) -> Floats:
        """Return (batch, sequence, hidden) for input ids (batch, sequence)."""
        return self._graphs.embed(input_ids)

    def place(self, embeds: Floats, features: Floats, at: npt.NDArray[np.bool_]) -> Floats:
        """Put image features (…, hidden) where `at` (batch, sequence) is True, in order."""
        return self._graphs.place(embeds, features, at)

    def take(self, embeds: Embeds, places: Ints) -> Floats:
        """Return (batch, kept, hidden), the tokens of each row that stand at `places` (batch, kept)."""
        return self._graphs.take(embeds, places)

    def route(
        self,
        inputs_embeds: Floats,
        image_positions: Ints,
        text_positions: Ints,
        text_mask: npt.NDArray[np.bool_],
    ) -> tuple[Any, RouterArrays]:
        """Return the enriched embeddings, an ONNX Runtime value, and what the router did."""
        return self._graphs.route(inputs_embeds, image_positions, text_positions, text_mask)

    def to_numpy(self, embeds: Embeds) -> Floats:
        """Return embeddings as an array."""
        return self._graphs.to_numpy(embeds)

    def from_numpy(self, embeds: Floats) -> Embeds:
        """Return them as they are."""
        return self._graphs.from_numpy(embeds)

    def memory(self) -> dict[str, int]:
        """Return nothing: all of it lies in the memory of the process."""
        return {}

    def prefill(
        self, inputs_embeds: Embeds, decoder: DecoderInputs
    ) -> tuple[Floats, OpenVinoState]:
        """Run the prompt.

        Args:
            inputs_embeds: (batch, sequence, hidden), left-padded.
            decoder: What the decoder takes besides.

        Returns:
            Logits of the last position, (batch, vocab), and the state to go on from.
        """
        mask = decoder.attention_mask
        # In pieces it takes as long in float32, and three to five times as long where the cache is rounded.
        state = OpenVinoState(self._decoder.new_request(), mask[:, :0], decoder)
        feed: dict[str, Array] = {
            "inputs_embeds": self.to_numpy(inputs_embeds),
            "position_ids": decoder.position_ids,
            **decoder.further,
        }
        return self._step(feed, mask, state), state

    def decode(self, token_ids: Ints, state: OpenVinoState) -> Floats:
        """Feed one token per row, (batch,), and return the next logits, (batch, vocab)."""
        feed: dict[str, Array] = {
            "inputs_embeds": self.embed(token_ids[:, None]),
            "position_ids": state.prompt.positions_after(state.steps),
            **state.prompt.step,
        }
        state.steps += 1
        return self._step(feed, np.ones((len(token_ids), 1), np.int64), state)

    def _step(self, inputs: Mapping[str, Array], new_mask: Ints, state: OpenVinoState) -> Floats:
        state.attention_mask = np.concatenate([state.attention_mask, new_mask], axis=1)
        feed = {
            **inputs,
            "attention_mask": state.attention_mask,
            BEAM_INPUT: np.arange(len(new_mask), dtype=np.int32),
        }
        arrays = {name: np.ascontiguousarray(array) for name, array in feed.items()}
        try:
            found = state.request.infer(arrays, share_inputs=True, share_outputs=True)
        except (RuntimeError, ValueError) as error:
            raise BundleError(
                f"OpenVINO cannot run {self._decoder.name}: {one_line(error)}"
            ) from error
        # The request's own memory, which its next run writes over.
        last: Floats = found["logits"][:, -1].copy()
        return last


def _check_target(bundle: Bundle, provider: str) -> None:
    """Refuse graphs in the form of a GPU, on which OpenVINO's figures are not held to ONNX Runtime's."""
    target = get_target(bundle.manifest.target)
    if target.builder != "onnxruntime":
        raise UnsupportedError(
            f"the provider {provider} runs bundles for a CPU and {bundle.path} is for {target.name}; "
            "export it with `target='cpu'`, or run with `provider='cpu'`"
        )
