"""The bundle's engines, run by TensorRT on one GPU; embeddings and cache stay on the device from image to answer."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.errors import UnsupportedError
from moir_edge.runtime.interface import (
    ROUTER_FIGURES,
    Array,
    DecoderInputs,
    Floats,
    Ints,
    RouterArrays,
)
from moir_edge.runtime.tensorrt.axes import DecoderAxes
from moir_edge.runtime.tensorrt.cache import KeyValues, cache_layout
from moir_edge.runtime.tensorrt.cuda import Cuda
from moir_edge.runtime.tensorrt.engine import Context, Engine, Scratch
from moir_edge.runtime.tensorrt.kernel_cache import KernelCache, kernel_cache_path
from moir_edge.runtime.tensorrt.memory import DeviceArray, DeviceMemory
from moir_edge.runtime.tensorrt.pieces import prompt_pieces
from moir_edge.runtime.tensorrt.selection import EngineSet, choose_engines
from moir_edge.runtime.tensorrt.state import EngineState, GroupState
from moir_edge.runtime.tensorrt.window import DECODE_PROFILE, DecodeWindow, WindowShelf
from moir_edge.tensorrt_api import module_name, version_text

if TYPE_CHECKING:
    from moir_edge.bundle import Bundle

__all__ = ["EngineSessions"]

_PREFILL_PROFILE = 0


class EngineSessions:
    """Runs the four components of a bundle by TensorRT; see `moir_edge.runtime.interface.Sessions`.

    A batch of more rows than the engines take at once goes through them in groups. Each of `joined`, `embed`,
    `place`, `route` and `prefill` waits for the device before it returns, so that the times taken around them are theirs.

    Args:
        bundle: An opened bundle.

    Raises:
        EnvironmentProblem: No GPU, no driver, or a package is missing.
        BundleError: The bundle holds no engine that fits this GPU and TensorRT.
    """

    provider = "tensorrt"

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._cuda = Cuda()
        self._memory = DeviceMemory(self._cuda)
        chosen = choose_engines(bundle, self._cuda.compute_capability)
        self._trt, self._entries = chosen.trt, chosen.entries
        self._kernels: list[KernelCache] = []
        free = self._cuda.free_bytes()
        engines = {name: self._load(chosen, name) for name in chosen.entries}
        self._engine_bytes = max(0, free - self._cuda.free_bytes())
        self._open(engines)
        self._finalizer = weakref.finalize(self, _close, self._kernels, self._memory)

    @property
    def backend(self) -> str:
        """The module and its version, and why decode steps were not replayed, if they were not."""
        why = self._shelf.unrecorded
        plainly = f" (decode steps are not replayed: {why})" if why else ""
        return f"{module_name(self._trt)} {version_text(self._trt)}{plainly}"

    def component_providers(self) -> dict[str, str]:
        """Return the module that runs each component's engine."""
        return dict.fromkeys(self._entries, module_name(self._trt))

    @property
    def has_router(self) -> bool:
        """Whether the bundle holds a router."""
        return self._router is not None

    def memory(self) -> dict[str, int]:
        """Return device bytes: what loading the engines took, and what buffers, cache and activations hold."""
        return {
            "engines": self._engine_bytes,
            "buffers": self._memory.device.held_bytes,
        }

    def files(self) -> tuple[str, ...]:
        """Return the engines, and the graphs of those that hold no weights."""
        components = self._bundle.manifest.components
        stripped = [name for name, entry in self._entries.items() if entry.stripped]
        graphs = {path for n in stripped for path in (components[n].graph, *components[n].data)}
        return (*(entry.path for entry in self._entries.values()), *sorted(graphs))

    def run_vision(self, feed: Mapping[str, Array]) -> dict[str, DeviceArray]:
        """Run `vision` once and return its outputs by name."""
        return self._vision.run({name: self._memory.upload(array) for name, array in feed.items()})

    def joined(self, parts: Sequence[DeviceArray]) -> DeviceArray:
        """Return arrays one after the other along their first axis."""
        return self._memory.joined(parts)

    def embed(self, input_ids: Ints) -> DeviceArray:
        """Return (batch, sequence, hidden) for input ids (batch, sequence)."""
        parts = [
            self._embedding.run({"input_ids": self._memory.upload(input_ids[rows])})
            for rows in _groups(len(input_ids), self._rows)
        ]
        return self._memory.joined([part["inputs_embeds"] for part in parts])

    def place(
        self, embeds: DeviceArray, features: DeviceArray, at: npt.NDArray[np.bool_]
    ) -> DeviceArray:
        """Put image features (…, hidden) where `at` (batch, sequence) is True, in order: one copy per run of image tokens."""
        width = embeds.shape[-1] * embeds.dtype.itemsize
        done = 0
        for first, count in _runs(at.reshape(-1)):
            source = features.address + done * width
            self._cuda.copy(embeds.address + first * width, source, count * width)
            done += count
        self._cuda.synchronize()
        return embeds

    def take(self, embeds: DeviceArray, places: Ints) -> DeviceArray:
        """Return (batch, kept, hidden), the tokens of each row that stand at `places` (batch, kept): one copy per run of them."""
        _, length, width = embeds.shape
        kept = self._memory.empty((*places.shape, width), embeds.dtype)
        step = width * embeds.dtype.itemsize
        sources = (places + length * np.arange(len(places))[:, None]).reshape(-1)
        starts = np.flatnonzero(np.diff(sources, prepend=-2) != 1)
        for first, end in zip(starts, [*starts[1:], len(sources)], strict=True):
            source = embeds.address + int(sources[first]) * step
            self._cuda.copy(kept.address + int(first) * step, source, int(end - first) * step)
        self._cuda.synchronize()
        return kept

    def route(
        self,
        inputs_embeds: DeviceArray,
        image_positions: Ints,
        text_positions: Ints,
        text_mask: npt.NDArray[np.bool_],
    ) -> tuple[DeviceArray, RouterArrays]:
        """Return the enriched embeddings, which stay on the device, and what the router did."""
        if self._router is None:
            raise UnsupportedError(
                f"{self._bundle.path} holds no router; export a retrofitted checkpoint"
            )
        places: dict[str, Any] = {
            "image_positions": image_positions,
            "text_positions": text_positions,
            "text_mask": text_mask,
        }
        routed, figures = [], []
        for rows in _groups(len(text_mask), self._rows):
            feeds = {name: self._memory.upload(array[rows]) for name, array in places.items()}
            embeds = self._memory.rows(inputs_embeds, rows)
            outputs = self._router.run({"inputs_embeds": embeds, **feeds})
            routed.append(outputs["routed_embeds"])
            figures.append(self._memory.download(*(outputs[name] for name in ROUTER_FIGURES)))
        whole = [np.concatenate(parts) for parts in zip(*figures, strict=True)]
        return self._memory.joined(routed), RouterArrays.of(places, whole)

    def prefill(
        self, inputs_embeds: DeviceArray, decoder: DecoderInputs
    ) -> tuple[Floats, EngineState]:
        """Run the prompt, in pieces where it is longer than the engine takes at once."""
        done = [
            self._prefill_group(
                self._memory.rows(inputs_embeds, rows), self._axes.rows(decoder, rows)
            )
            for rows in _groups(len(decoder.attention_mask), self._rows)
        ]
        return np.concatenate([logits for logits, _ in done]), EngineState([one for _, one in done])

    def decode(self, token_ids: Ints, state: EngineState) -> Floats:
        """Feed one token per row, (batch,), and return the next logits, (batch, vocab)."""
        return state.step(token_ids)

    def to_numpy(self, embeds: DeviceArray) -> Floats:
        """Copy embeddings to the host."""
        (array,) = self._memory.download(embeds)
        return array

    def from_numpy(self, embeds: Floats) -> DeviceArray:
        """Copy embeddings to the device."""
        return self._memory.upload(embeds)

    def close(self) -> None:
        """Keep the compiled kernels for the next process and free what is idle on the device."""
        self._finalizer()

    def _load(self, chosen: EngineSet, name: str) -> Engine:
        entry, manifest = chosen.entries[name], self._bundle.manifest
        hashes = {file.path: file.sha256 for file in manifest.files}
        kernels = KernelCache(kernel_cache_path(hashes[entry.path], version_text(chosen.trt)))
        self._kernels.append(kernels)
        graph = self._bundle.graph(name) if entry.stripped else None
        path = self._bundle.file(entry.path)
        return Engine(chosen.trt, path, self._memory, kernels, weights=graph)

    def _open(self, engines: dict[str, Engine]) -> None:
        """Make the contexts; all but the decode step's share their activation memory, being run in turn."""
        scratch = Scratch(self._memory)
        self._vision, self._embedding, self._token_embedding, self._prefill = (
            engines[name].context(_PREFILL_PROFILE, scratch)
            for name in ("vision", "embedding", "embedding", "decoder")
        )
        self._router: Context | None = None
        if "router" in engines:
            self._router = engines["router"].context(0, scratch)
        self._decoder = engines["decoder"]
        first_inputs = {
            "embedding": "input_ids",
            "router": "inputs_embeds",
            "decoder": "inputs_embeds",
        }
        self._rows = min(
            engines[name].largest(tensor)[0]
            for name, tensor in first_inputs.items()
            if name in engines
        )
        self.tiles_per_run: int = engines["vision"].largest("pixel_values")[0]
        self._piece = self._decoder.largest("inputs_embeds", _PREFILL_PROFILE)[1]
        longest = self._decoder.largest("past_key_values.0.key", DECODE_PROFILE)[2]
        # No method of this object goes in here: a circle of references would hold the device's memory.
        manifest = self._bundle.manifest
        self._axes = DecoderAxes(manifest.components["decoder"].inputs)
        make = partial(_window, self._decoder, self._token_embedding, self._axes, manifest.model)
        self._shelf = WindowShelf(make, longest)

    def _prefill_group(
        self, embeds: DeviceArray, decoder: DecoderInputs
    ) -> tuple[Floats, GroupState]:
        batch, length, _ = embeds.shape
        mask = decoder.attention_mask
        cache = KeyValues(self._memory, cache_layout(self._bundle.manifest.model, batch))
        blocks = decoder.further.get("attention_blocks")
        for piece in prompt_pieces(length, self._piece, blocks):
            start, stop = piece.start, piece.stop
            pieces = self._axes.span(decoder, piece)
            feeds = {
                "inputs_embeds": self._memory.span(embeds, start, stop),
                "attention_mask": self._memory.upload(mask[:, :stop]),
                **{name: self._memory.upload(piece) for name, piece in pieces.items()},
                **cache.named("past_key_values"),
            }
            cache = KeyValues(self._memory, cache.layout.of(stop))
            logits = self._prefill.run(feeds, cache.named("present"))["logits"]
        (last,) = self._memory.download(logits)
        return last[:, -1], GroupState(self._shelf, cache, decoder)


def _groups(count: int, most: int) -> list[slice]:
    """Return slices of at most so many rows that cover all."""
    return [slice(start, min(start + most, count)) for start in range(0, count, most)]


def _runs(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return first index and length of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.view(np.int8), [0]])))
    return [
        (int(first), int(end - first)) for first, end in zip(edges[::2], edges[1::2], strict=True)
    ]


def _window(
    decoder: Engine,
    embedding: Context,
    axes: DecoderAxes,
    facts: ModelFacts,
    batch: int,
    slots: int,
) -> DecodeWindow:
    layout = cache_layout(facts, batch).of(slots)
    return DecodeWindow(
        decoder,
        embedding,
        layout,
        axes.of_step(batch),
        hidden=facts.hidden_size,
        vocabulary=facts.vocab_size,
    )


def _close(kernels: list[KernelCache], memory: DeviceMemory) -> None:
    for cache in kernels:
        cache.save()
    memory.close()
