"""The bundle's engines, run by TensorRT on one GPU; embeddings and cache stay on the device from image to answer."""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.runtime.interface import Floats, Ints, RouterArrays
from moir_edge.runtime.tensorrt.cache import KeyValues, cache_layout
from moir_edge.runtime.tensorrt.cuda import Cuda
from moir_edge.runtime.tensorrt.engine import Context, Engine, Scratch
from moir_edge.runtime.tensorrt.kernel_cache import KernelCache, kernel_cache_path
from moir_edge.runtime.tensorrt.memory import DeviceArray, DeviceMemory
from moir_edge.runtime.tensorrt.selection import EngineSet, choose_engines
from moir_edge.runtime.tensorrt.window import DECODE_PROFILE, DecodeWindow, WindowShelf
from moir_edge.tensorrt_api import module_name, version_text

if TYPE_CHECKING:
    from moir_edge.bundle import Bundle

__all__ = ["EngineSessions", "EngineState"]

_ROUTER_FIGURES = ("router_scores", "router_indices", "router_margin", "router_gate")
_PREFILL_PROFILE = 0


class EngineState:
    """The key-value cache of a batch: as the prompt left it, then in a window once decoding has begun.

    Args:
        shelf: Where the window comes from and goes back to.
        cache: The prompt's cache.
        mask: (batch, tokens) int64, the prompt's.
    """

    def __init__(self, shelf: WindowShelf, cache: KeyValues, mask: Ints) -> None:
        self._shelf = shelf
        self._prompt: tuple[KeyValues, Ints] | None = (cache, mask)
        self._window: DecodeWindow | None = None
        self._tokens = mask.shape[1]
        self._positions = mask.sum(axis=1)

    def __del__(self) -> None:
        if self._window is not None:
            self._shelf.put(self._window)

    def step(self, token_ids: Ints) -> Floats:
        """Feed one token per row, (batch,), and return the next logits, (batch, vocab)."""
        logits = self._room().step(token_ids, self._positions)
        self._positions = self._positions + 1
        self._tokens += 1
        return logits

    def _room(self) -> DecodeWindow:
        """Return a window with an empty slot, which holds the cache."""
        window = self._window
        if window is not None and window.filled < window.slots:
            return window
        if self._tokens >= self._shelf.most:
            raise DataError(f"the engine's cache is full after {self._tokens} tokens")
        larger = self._shelf.take(len(self._positions), self._tokens)
        if self._prompt is not None:
            larger.fill(*self._prompt)
            self._prompt = None
        if window is not None:
            window.hand_over(larger)
            self._shelf.put(window)
        self._window = larger
        return larger


class EngineSessions:
    """Runs the four components of a bundle by TensorRT; see `moir_edge.runtime.interface.Sessions`.

    Each of `image_features`, `embed`, `place`, `route` and `prefill` waits for the device before it returns, so that the
    times taken around them are theirs.

    Args:
        bundle: An opened bundle.
        cuda: The device; None takes the first one.

    Raises:
        EnvironmentProblem: No GPU, no driver, or a package is missing.
        BundleError: The bundle holds no engine that fits this GPU and TensorRT.
    """

    provider = "tensorrt"

    def __init__(self, bundle: Bundle, *, cuda: Cuda | None = None) -> None:
        self._bundle = bundle
        self._cuda = Cuda() if cuda is None else cuda
        self._memory = DeviceMemory(self._cuda)
        chosen = choose_engines(bundle, self._cuda.compute_capability)
        self._trt = chosen.trt
        self._kernels: list[KernelCache] = []
        free = self._cuda.free_bytes()
        engines = {name: self._load(chosen, name) for name in chosen.entries}
        self._engine_bytes = max(0, free - self._cuda.free_bytes())
        self._open(engines)
        self._finalizer = weakref.finalize(self, _close, self._kernels, self._memory)

    @property
    def backend(self) -> str:
        """The module and its version."""
        return f"{module_name(self._trt)} {version_text(self._trt)}"

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

    def image_features(self, pixel_values: Floats) -> DeviceArray:
        """Return (images, tokens, hidden) for pixel values (images, 3, height, width)."""
        parts = [
            self._vision.run({"pixel_values": self._memory.upload(pixel_values[start : start + self._tiles])})
            for start in range(0, len(pixel_values), self._tiles)
        ]  # fmt: skip
        features = self._joined([part["image_features"] for part in parts])
        self._cuda.synchronize()
        return features

    def embed(self, input_ids: Ints) -> DeviceArray:
        """Return (batch, sequence, hidden) for input ids (batch, sequence)."""
        embeds = self._embedding.run({"input_ids": self._memory.upload(input_ids)})["inputs_embeds"]
        self._cuda.synchronize()
        return embeds

    def place(
        self, embeds: DeviceArray, features: DeviceArray, at: npt.NDArray[np.bool_]
    ) -> DeviceArray:
        """Put image features where `at` (batch, sequence) is True, in order: one copy per run of image tokens."""
        width = embeds.shape[-1] * embeds.dtype.itemsize
        done = 0
        for first, count in _runs(at.reshape(-1)):
            source = features.address + done * width
            self._cuda.copy(embeds.address + first * width, source, count * width)
            done += count
        self._cuda.synchronize()
        return embeds

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
        feeds = {name: self._memory.upload(array) for name, array in places.items()}
        outputs = self._router.run({"inputs_embeds": inputs_embeds, **feeds})
        figures = self._memory.download(*(outputs[name] for name in _ROUTER_FIGURES))
        named = {name[7:]: array for name, array in zip(_ROUTER_FIGURES, figures, strict=True)}
        return outputs["routed_embeds"], RouterArrays(**places, **named)

    def prefill(
        self, inputs_embeds: DeviceArray, attention_mask: Ints
    ) -> tuple[Floats, EngineState]:
        """Run the prompt, in pieces where it is longer than the engine takes at once."""
        batch, length, _ = inputs_embeds.shape
        positions = np.maximum(np.cumsum(attention_mask, axis=1) - 1, 0)
        cache = KeyValues(self._memory, cache_layout(self._bundle.manifest.model, batch))
        for start in range(0, length, self._piece):
            stop = min(start + self._piece, length)
            feeds = {
                "inputs_embeds": self._slice(inputs_embeds, start, stop),
                "attention_mask": self._memory.upload(attention_mask[:, :stop]),
                "position_ids": self._memory.upload(positions[:, start:stop]),
                **cache.named("past_key_values"),
            }
            cache = KeyValues(self._memory, cache.layout.of(stop))
            logits = self._prefill.run(feeds, cache.named("present"))["logits"]
        (last,) = self._memory.download(logits)
        return last[:, -1], EngineState(self._shelf, cache, attention_mask)

    def decode(self, token_ids: Ints, state: EngineState) -> Floats:
        """Feed one token per row, (batch,), and return the next logits, (batch, vocab)."""
        return state.step(token_ids)

    def to_numpy(self, embeds: DeviceArray) -> Floats:
        """Copy embeddings to the host."""
        (array,) = self._memory.download(embeds)
        return array

    def close(self) -> None:
        """Keep the compiled kernels for the next process and free what is idle on the device."""
        self._finalizer()

    def _load(self, chosen: EngineSet, name: str) -> Engine:
        path = chosen.entries[name].path
        file = self._bundle.file(path)
        hashes = {entry.path: entry.sha256 for entry in self._bundle.manifest.files}
        kernels = KernelCache(kernel_cache_path(hashes[path], version_text(chosen.trt)))
        self._kernels.append(kernels)
        return Engine(chosen.trt, file, self._memory, kernels)

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
        self._tiles = engines["vision"].largest("pixel_values")[0]
        self._piece = self._decoder.largest("inputs_embeds", _PREFILL_PROFILE)[1]
        longest = self._decoder.largest("past_key_values.0.key", DECODE_PROFILE)[2]
        # No method of this object goes in here: a circle of references would hold the device's memory.
        make = partial(_window, self._decoder, self._token_embedding, self._bundle.manifest.model)
        self._shelf = WindowShelf(make, longest)

    def _joined(self, parts: list[DeviceArray]) -> DeviceArray:
        """Return arrays one behind the other along the first axis."""
        if len(parts) == 1:
            return parts[0]
        rows = sum(part.shape[0] for part in parts)
        whole = self._memory.empty((rows, *parts[0].shape[1:]), parts[0].dtype)
        address = whole.address
        for part in parts:
            self._cuda.copy(address, part.address, part.nbytes)
            address += part.nbytes
        return whole

    def _slice(self, embeds: DeviceArray, start: int, stop: int) -> DeviceArray:
        """Return embeds[:, start:stop], packed."""
        batch, length, hidden = embeds.shape
        if stop - start == length:
            return embeds
        piece = self._memory.empty((batch, stop - start, hidden), embeds.dtype)
        token = hidden * embeds.dtype.itemsize
        width = (stop - start) * token
        source = (embeds.address + start * token, length * token)
        self._cuda.copy_2d((piece.address, width), source, width, batch)
        return piece


def _runs(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return first index and length of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.view(np.int8), [0]])))
    return [
        (int(first), int(end - first)) for first, end in zip(edges[::2], edges[1::2], strict=True)
    ]


def _window(
    decoder: Engine, embedding: Context, facts: ModelFacts, batch: int, slots: int
) -> DecodeWindow:
    layout = cache_layout(facts, batch).of(slots)
    return DecodeWindow(
        decoder, embedding, layout, hidden=facts.hidden_size, vocabulary=facts.vocab_size
    )


def _close(kernels: list[KernelCache], memory: DeviceMemory) -> None:
    for cache in kernels:
        cache.save()
    memory.close()
