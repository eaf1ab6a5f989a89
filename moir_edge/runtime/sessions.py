"""The bundle's graphs in ONNX Runtime. This is the one place that knows their input and output names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moir_edge.errors import UnsupportedError
from moir_edge.runtime.interface import Embeds, Floats, Ints, RouterArrays
from moir_edge.runtime.providers import GraphProvider, open_graph

if TYPE_CHECKING:
    from moir_edge.bundle import Bundle

__all__ = ["DecoderState", "GraphSessions"]

_VISION_BATCH = 16  # tiles per vision run: bounds its memory for images of many tiles
_ROUTER_FIGURES = ("router_scores", "router_indices", "router_margin", "router_gate")


@dataclass
class DecoderState:
    """The key-value cache of a batch, kept where the provider computes.

    Attributes:
        values: One ONNX Runtime value per layer and key or value,
            (batch, kv_heads, past_sequence, head_dim) float32.
        attention_mask: (batch, past_sequence) int64.
    """

    values: list[Any]
    attention_mask: Ints


class GraphSessions:
    """Runs the four components of a bundle.

    Images are put into the prompt on the host. From the router on, embeddings and cache stay where the provider computes.

    Args:
        bundle: An opened bundle.
        threads: Threads of one operator; None takes one per physical core.
        provider: ``"cpu"``, ``"cuda"`` or ``"ort-tensorrt"``.

    Raises:
        EnvironmentProblem: The provider is not available on this machine.
        BundleError: ONNX Runtime cannot load a graph.
    """

    def __init__(
        self, bundle: Bundle, *, threads: int | None = None, provider: GraphProvider = "cpu"
    ) -> None:
        self.provider: str = provider
        self._bundle = bundle
        self._device = "cpu" if provider == "cpu" else "cuda"  # ONNX Runtime's name of the memory
        open_component = partial(open_graph, bundle, provider=provider, threads=threads)
        self._vision = open_component("vision")
        self._embedding = open_component("embedding")
        self._decoder = open_component("decoder")
        self._router = open_component("router") if "router" in bundle.manifest.components else None
        layers = range(bundle.manifest.model.num_layers)
        parts = [f"{layer}.{part}" for layer in layers for part in ("key", "value")]
        self._past_names = [f"past_key_values.{part}" for part in parts]
        self._present_names = [f"present.{part}" for part in parts]

    @property
    def backend(self) -> str:
        """ONNX Runtime's version and the provider."""
        import onnxruntime

        return f"ONNX Runtime {onnxruntime.__version__} ({self.provider})"

    def component_providers(self) -> dict[str, str]:
        """Return the execution provider that ONNX Runtime gave to each component's session."""
        sessions = {
            "vision": self._vision,
            "embedding": self._embedding,
            "router": self._router,
            "decoder": self._decoder,
        }
        return {
            name: session.get_providers()[0]
            for name, session in sessions.items()
            if session is not None
        }

    @property
    def has_router(self) -> bool:
        """Whether the bundle holds a router."""
        return self._router is not None

    def files(self) -> tuple[str, ...]:
        """Return the graphs and their weights; components may share a file."""
        entries = self._bundle.manifest.components.values()
        return tuple(
            dict.fromkeys(name for entry in entries for name in (entry.graph, *entry.data))
        )

    def image_features(self, pixel_values: Floats) -> Floats:
        """Return (images, tokens, hidden) for pixel values (images, 3, height, width)."""
        parts = [
            self._vision.run(
                ["image_features"], {"pixel_values": pixel_values[start : start + _VISION_BATCH]}
            )[0]
            for start in range(0, len(pixel_values), _VISION_BATCH)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def embed(self, input_ids: Ints) -> Floats:
        """Return (batch, sequence, hidden) for input ids (batch, sequence)."""
        embeds: Floats = self._embedding.run(["inputs_embeds"], {"input_ids": input_ids})[0]
        return embeds

    def place(self, embeds: Floats, features: Floats, at: npt.NDArray[np.bool_]) -> Floats:
        """Put image features (images, tokens, hidden) where `at` (batch, sequence) is True, in order."""
        embeds[at] = features.reshape(-1, features.shape[-1])
        return embeds

    def route(
        self,
        inputs_embeds: Floats,
        image_positions: Ints,
        text_positions: Ints,
        text_mask: npt.NDArray[np.bool_],
    ) -> tuple[Any, RouterArrays]:
        """Return the enriched embeddings, an ONNX Runtime value, and what the router did.

        Raises:
            UnsupportedError: The bundle holds no router.
        """
        if self._router is None:
            raise UnsupportedError(
                f"{self._bundle.path} holds no router; export a retrofitted checkpoint"
            )
        places: dict[str, Any] = {
            "image_positions": image_positions,
            "text_positions": text_positions,
            "text_mask": text_mask,
        }
        binding = self._router.io_binding()
        for name, array in {"inputs_embeds": inputs_embeds, **places}.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        binding.bind_output("routed_embeds", self._device)
        for name in _ROUTER_FIGURES:
            binding.bind_output(name, "cpu")
        self._router.run_with_iobinding(binding)
        routed, *figures = binding.get_outputs()
        named = zip(_ROUTER_FIGURES, figures, strict=True)
        arrays = {name.removeprefix("router_"): value.numpy() for name, value in named}
        return routed, RouterArrays(**places, **arrays)

    def to_numpy(self, embeds: Embeds) -> Floats:
        """Copy embeddings to the host; those that are there already are returned as they are."""
        array: Floats = embeds if isinstance(embeds, np.ndarray) else embeds.numpy()
        return array

    def from_numpy(self, embeds: Floats) -> Embeds:
        """Return them as they are: each run takes arrays of the host."""
        return embeds

    def memory(self) -> dict[str, int]:
        """Return nothing: ONNX Runtime does not tell what it holds on a GPU."""
        return {}

    def prefill(self, inputs_embeds: Embeds, attention_mask: Ints) -> tuple[Floats, DecoderState]:
        """Run the prompt.

        Args:
            inputs_embeds: (batch, sequence, hidden), left-padded.
            attention_mask: (batch, sequence) int64.

        Returns:
            Logits of the last position, (batch, vocab), and the state to go on from.
        """
        facts = self._bundle.manifest.model
        empty = np.zeros((len(attention_mask), facts.num_kv_heads, 0, facts.head_dim), np.float32)
        state = DecoderState([self._value(empty)] * len(self._past_names), attention_mask[:, :0])
        position_ids = np.maximum(np.cumsum(attention_mask, axis=1) - 1, 0)
        embeds = (
            self._value(inputs_embeds) if isinstance(inputs_embeds, np.ndarray) else inputs_embeds
        )
        logits = self._step(embeds, attention_mask, position_ids, state)
        return logits, state

    def decode(self, token_ids: Ints, state: DecoderState) -> Floats:
        """Feed one token per row, (batch,), and return the next logits, (batch, vocab)."""
        embeds = self._embed_in_place(token_ids[:, None])
        new = np.ones((len(token_ids), 1), dtype=np.int64)
        position_ids = state.attention_mask.sum(axis=1, keepdims=True)
        return self._step(embeds, new, position_ids, state)

    def _step(self, embeds: Any, new_mask: Ints, position_ids: Ints, state: DecoderState) -> Floats:
        """Run the decoder; the cache goes in and out as ONNX Runtime values, never through numpy."""
        state.attention_mask = np.concatenate([state.attention_mask, new_mask], axis=1)
        binding = self._decoder.io_binding()
        binding.bind_ortvalue_input("inputs_embeds", embeds)
        binding.bind_cpu_input("attention_mask", state.attention_mask)
        binding.bind_cpu_input("position_ids", position_ids)
        for name, value in zip(self._past_names, state.values, strict=True):
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("logits", "cpu")
        for name in self._present_names:
            binding.bind_output(name, self._device)
        self._decoder.run_with_iobinding(binding)
        logits, *state.values = binding.get_outputs()
        last: Floats = logits.numpy()[:, -1]
        return last

    def _embed_in_place(self, input_ids: Ints) -> Any:
        binding = self._embedding.io_binding()
        binding.bind_cpu_input("input_ids", input_ids)
        binding.bind_output("inputs_embeds", self._device)
        self._embedding.run_with_iobinding(binding)
        return binding.get_outputs()[0]

    def _value(self, array: npt.NDArray[Any]) -> Any:
        import onnxruntime

        return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self._device)
