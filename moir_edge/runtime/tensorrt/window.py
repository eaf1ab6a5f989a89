"""The decode step, always of one shape, so that it can be recorded once and replayed.

TensorRT returns the grown cache as new tensors, and a cache that grows would give every step a shape of its own: nothing could be
replayed, and TensorRT-RTX would specialize kernels for each length. A window holds a cache with room for some hundred
tokens more than there are, the empty *slots* masked. The decoder appends the new token behind the last slot; one small copy per
step puts it into the first empty slot. That is exact: keys carry their positions in themselves, so attention does not ask in
which order they lie, and a masked slot weighs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from moir_edge.errors import EnvironmentProblem
from moir_edge.runtime.interface import Array, Floats, Ints
from moir_edge.runtime.tensorrt.cache import CacheLayout, KeyValues, copy_tokens
from moir_edge.runtime.tensorrt.cuda import Recording
from moir_edge.runtime.tensorrt.engine import Context, Engine, Scratch
from moir_edge.runtime.tensorrt.memory import DeviceArray, DeviceMemory, view_of

__all__ = ["DECODE_PROFILE", "DecodeWindow", "WindowShelf"]

DECODE_PROFILE = 1
_SLOT_STEP = (
    256  # a window has a multiple of this many slots: a new one is made, and recorded, that often
)
_IDLE_WINDOWS = 2


class DecodeWindow:
    """Buffers, execution context and recording of decode steps of one batch size and number of slots.

    Args:
        decoder: The decoder's engine.
        embedding: Runs the embedding's engine.
        layout: The cache; its tokens are the slots.
        step: Arrays for one token of each row by input name, position ids among them.
        hidden: Width of an embedding.
        vocabulary: Width of the logits.
    """

    def __init__(
        self,
        decoder: Engine,
        embedding: Context,
        layout: CacheLayout,
        step: Mapping[str, Array],
        *,
        hidden: int,
        vocabulary: int,
    ) -> None:
        memory = decoder.memory
        batch, self.slots = layout.batch, layout.tokens
        self.batch = batch
        self.filled = 0
        self._cuda = memory.cuda
        self._embedding = embedding
        self._past = KeyValues(memory, layout)
        self._present = KeyValues(memory, layout.of(self.slots + 1))
        self._ids = _Mirror(memory, (batch, 1), np.int64)
        self._step = {
            name: _Mirror(memory, array.shape, array.dtype) for name, array in step.items()
        }
        self._positions = self._step["position_ids"]
        self._mask = _Mirror(memory, (batch, self.slots + 1), np.int64)
        self._logits = _Mirror(memory, (batch, 1, vocabulary), np.float32)
        self._embeds = memory.empty((batch, 1, hidden))
        self._context = decoder.context(DECODE_PROFILE, Scratch(memory), replay=True)
        self._context.bind(self._inputs(), self._outputs())
        self._recording: Recording | None = None
        self._runs = 0
        self.unrecorded = ""  # why the step cannot be replayed; empty while it is, or may yet be

    def set_step(self, inputs: Mapping[str, Array]) -> None:
        """Take what every generated token is fed besides, by input name."""
        for name, array in inputs.items():
            self._step[name].host[:] = array
            self._step[name].upload()

    def fill(self, source: KeyValues, mask: Ints) -> None:
        """Take a cache over.

        Args:
            source: Holds as many tokens as the mask is long, from its first on.
            mask: (batch, tokens) int64, 0 for padding; fewer tokens than there are slots.
        """
        self.filled = mask.shape[1]
        self._past.clear(self._cuda)
        copy_tokens(self._cuda, source, 0, self._past, 0, self.filled)
        self._mask.host[:] = 0
        self._mask.host[:, : self.filled] = mask
        self._mask.host[:, -1] = 1

    def hand_over(self, larger: DecodeWindow) -> None:
        """Move the cache into another window."""
        larger.fill(self._past, self._mask.host[:, : self.filled])

    def step(self, token_ids: Ints, positions: Ints) -> Floats:
        """Feed one token per row.

        Args:
            token_ids: (batch,) int64.
            positions: (batch,) int64, of those tokens.

        Returns:
            The next logits, (batch, vocab).
        """
        self._ids.host[:, 0] = token_ids
        self._positions.host[..., 0] = positions
        for mirror in (self._ids, self._positions, self._mask):
            mirror.upload()
        self._embedding.run({"input_ids": self._ids.device}, {"inputs_embeds": self._embeds})
        self._decode()
        self._logits.download()
        self._cuda.synchronize()
        copy_tokens(self._cuda, self._present, self.slots, self._past, self.filled, 1)
        self._mask.host[:, self.filled] = 1
        self.filled += 1
        return np.array(self._logits.host[:, 0])

    def _decode(self) -> None:
        """Queue the decoder: plainly the first time, which readies the shape, then by what that recorded."""
        if self._recording is None and self._runs == 1 and not self._context.replays:
            self._record()
        self._runs += 1
        if self._recording is None:
            self._context.enqueue()
        else:
            self._cuda.replay(self._recording)

    def _record(self) -> None:
        if not self._context.may_be_captured():
            self.unrecorded = "TensorRT says that the decoder cannot be captured"
            return
        try:
            self._recording = self._cuda.capture(self._context.enqueue)
        except EnvironmentProblem as problem:
            self.unrecorded = str(problem)

    def _inputs(self) -> dict[str, DeviceArray]:
        return {
            "inputs_embeds": self._embeds,
            "attention_mask": self._mask.device,
            **{name: mirror.device for name, mirror in self._step.items()},
            **self._past.named("past_key_values"),
        }

    def _outputs(self) -> dict[str, DeviceArray]:
        return {"logits": self._logits.device, **self._present.named("present")}


class _Mirror:
    """An array on the device with a page-locked twin on the host."""

    def __init__(self, memory: DeviceMemory, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.device = memory.empty(shape, dtype)
        self._cuda = memory.cuda
        self._block = memory.pinned.take(self.device.nbytes)
        self.host = view_of(self._block, shape, dtype)

    def upload(self) -> None:
        self._cuda.upload(self.device.address, self.host)

    def download(self) -> None:
        self._cuda.download(self.host, self.device.address)


class WindowShelf:
    """Windows that are made when needed and used again.

    Args:
        make: Makes a window for a batch size and a number of slots.
        most: Slots at most: the decoder's longest cache.
    """

    def __init__(self, make: Callable[[int, int], DecodeWindow], most: int) -> None:
        self._make = make
        self._idle: list[DecodeWindow] = []
        self.most = most
        self.unrecorded = (
            ""  # why steps were not replayed, as the last window that came back has it
        )

    def take(self, batch: int, tokens: int) -> DecodeWindow:
        """Return a window with an empty slot behind so many tokens; fewer than `most`."""
        slots = min(-(-(tokens + 1) // _SLOT_STEP) * _SLOT_STEP, self.most)
        for index, window in enumerate(self._idle):
            if (window.batch, window.slots) == (batch, slots):
                return self._idle.pop(index)
        return self._make(batch, slots)

    def put(self, window: DecodeWindow) -> None:
        """Take a window back; the one that lay idle longest makes room."""
        self.unrecorded = window.unrecorded
        self._idle.append(window)
        del self._idle[:-_IDLE_WINDOWS]
