"""The bundle's graphs in ONNX Runtime. This is the one place that knows their input and output names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from moir_edge.errors import BundleError, EnvironmentProblem, UnsupportedError, closest
from moir_edge.runtime.float4 import session_source
from moir_edge.targets import get_target, session_config

if TYPE_CHECKING:
    from moir_edge.bundle import Bundle

__all__ = ["DecoderState", "GraphSessions", "Provider", "RouterArrays"]

Provider = Literal["cpu", "cuda"]

_PROVIDERS: Mapping[str, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_VISION_BATCH = 16  # tiles per vision run: bounds its memory for images of many tiles

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class RouterArrays:
    """What the router says of one batch; first N image tokens, then M text tokens.

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

    Args:
        bundle: An opened bundle.
        threads: Threads of one operator; None takes one per physical core.
        provider: ``"cpu"`` or ``"cuda"``; None takes CUDA where onnxruntime-gpu offers it.

    Raises:
        EnvironmentProblem: The provider is not available on this machine.
        BundleError: ONNX Runtime cannot load a graph.
    """

    def __init__(
        self, bundle: Bundle, *, threads: int | None = None, provider: Provider | None = None
    ) -> None:
        self.provider = _choose_provider(provider)
        self._bundle = bundle
        self._threads = threads
        self._vision = self._open("vision")
        self._embedding = self._open("embedding")
        self._decoder = self._open("decoder")
        self._router = self._open("router") if "router" in bundle.manifest.components else None
        layers = range(bundle.manifest.model.num_layers)
        parts = [f"{layer}.{part}" for layer in layers for part in ("key", "value")]
        self._past_names = [f"past_key_values.{part}" for part in parts]
        self._present_names = [f"present.{part}" for part in parts]

    @property
    def has_router(self) -> bool:
        """Whether the bundle holds a router."""
        return self._router is not None

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

    def route(
        self,
        inputs_embeds: Floats,
        image_positions: Ints,
        text_positions: Ints,
        text_mask: npt.NDArray[np.bool_],
    ) -> tuple[Floats, RouterArrays]:
        """Return the enriched embeddings (batch, sequence, hidden) and what the router did.

        Raises:
            UnsupportedError: The bundle holds no router.
        """
        if self._router is None:
            raise UnsupportedError(
                f"{self._bundle.path} holds no router; export a retrofitted checkpoint"
            )
        outputs = [
            "routed_embeds",
            "router_scores",
            "router_indices",
            "router_margin",
            "router_gate",
        ]
        feeds = {
            "inputs_embeds": inputs_embeds,
            "image_positions": image_positions,
            "text_positions": text_positions,
            "text_mask": text_mask,
        }
        routed, scores, indices, margin, gate = self._router.run(outputs, feeds)
        arrays = RouterArrays(
            image_positions=image_positions,
            text_positions=text_positions,
            text_mask=text_mask,
            scores=scores,
            indices=indices,
            margin=margin,
            gate=gate,
        )
        return routed, arrays

    def prefill(self, inputs_embeds: Floats, attention_mask: Ints) -> tuple[Floats, DecoderState]:
        """Run the prompt.

        Args:
            inputs_embeds: (batch, sequence, hidden), left-padded.
            attention_mask: (batch, sequence) int64.

        Returns:
            Logits of the last position, (batch, vocab), and the state to go on from.
        """
        facts = self._bundle.manifest.model
        empty = np.zeros((len(inputs_embeds), facts.num_kv_heads, 0, facts.head_dim), np.float32)
        state = DecoderState([self._value(empty)] * len(self._past_names), attention_mask[:, :0])
        position_ids = np.maximum(np.cumsum(attention_mask, axis=1) - 1, 0)
        logits = self._step(self._value(inputs_embeds), attention_mask, position_ids, state)
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
            binding.bind_output(name, self.provider)
        self._decoder.run_with_iobinding(binding)
        logits, *state.values = binding.get_outputs()
        last: Floats = logits.numpy()[:, -1]
        return last

    def _embed_in_place(self, input_ids: Ints) -> Any:
        binding = self._embedding.io_binding()
        binding.bind_cpu_input("input_ids", input_ids)
        binding.bind_output("inputs_embeds", self.provider)
        self._embedding.run_with_iobinding(binding)
        return binding.get_outputs()[0]

    def _value(self, array: npt.NDArray[Any]) -> Any:
        import onnxruntime

        return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self.provider)

    def _open(self, component: str) -> Any:
        import onnxruntime

        entry = self._bundle.manifest.components.get(component)
        if entry is None:
            raise BundleError(f"{self._bundle.path} has no {component} component; export it again")
        # A bundle for a GPU is run on a CPU to check it.
        builder = get_target(self._bundle.manifest.target).builder
        exact = self.provider == "cpu" and builder != "onnxruntime"
        options = _session_options(self._threads, component, entry.precision, exact=exact)
        names = list(dict.fromkeys([_PROVIDERS[self.provider], "CPUExecutionProvider"]))
        path = self._bundle.file(entry.graph)
        source = session_source(path, entry.precision)
        try:
            return onnxruntime.InferenceSession(source, options, providers=names)
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise BundleError(f"ONNX Runtime cannot load {path}: {error}") from error


def _choose_provider(wanted: str | None) -> Provider:
    import onnxruntime

    available = [
        name for name, full in _PROVIDERS.items() if full in onnxruntime.get_available_providers()
    ]
    if wanted is None:
        return "cuda" if "cuda" in available else "cpu"
    if wanted not in _PROVIDERS:
        raise UnsupportedError(f"unknown provider {wanted!r}; {closest(wanted, _PROVIDERS)}")
    if wanted not in available:
        raise EnvironmentProblem(
            f"this onnxruntime offers no {wanted} provider (it has {', '.join(available)}); "
            "install it with `pip install 'moir-edge[gpu]'`"
        )
    return "cuda" if wanted == "cuda" else "cpu"


def _session_options(threads: int | None, component: str, precision: str, *, exact: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: its warnings are about fusions it did not find
    if threads is not None:
        options.intra_op_num_threads = threads
    # Without spinning the four sessions' idle threads leave the cores to the one that works.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    version = onnxruntime.__version__
    for key, value in session_config(component, precision, version, exact=exact).items():
        options.add_session_config_entry(key, value)
    return options
