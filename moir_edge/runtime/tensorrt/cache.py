"""Layout of all keys and values in one piece of device memory, so that one copy moves a token."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.runtime.interface import cache_names
from moir_edge.runtime.tensorrt.cuda import Cuda
from moir_edge.runtime.tensorrt.memory import ALIGNMENT, DeviceArray, DeviceMemory

__all__ = ["CacheLayout", "KeyValues", "cache_layout", "copy_tokens"]

_ITEM = np.dtype(np.float32)  # the graphs' cache is float32 in every precision


@dataclass(frozen=True, kw_only=True)
class CacheLayout:
    """Keys and values as ``tensors`` arrays (batch, kv_heads, tokens, head_dim), one after the other.

    Each (batch, kv_head) pair is a *strip* of `tokens` rows. All strips of all tensors are equally spaced, which makes
    them one matrix for a two-dimensional copy; a few unused strips after a tensor keep the next one aligned.

    Attributes:
        tensors: Two per layer.
        batch: Rows of the batch.
        kv_heads: Key-value heads.
        tokens: Tokens that there is room for.
        head_dim: Width of a head.
    """

    tensors: int
    batch: int
    kv_heads: int
    tokens: int
    head_dim: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of one tensor."""
        return (self.batch, self.kv_heads, self.tokens, self.head_dim)

    @property
    def token_bytes(self) -> int:
        """Bytes of one token in one strip."""
        return self.head_dim * _ITEM.itemsize

    @property
    def strip_bytes(self) -> int:
        """Bytes from one strip to the next."""
        return self.tokens * self.token_bytes

    @property
    def strips(self) -> int:
        """Strips per tensor, the unused ones included; it does not depend on `tokens`."""
        step = ALIGNMENT // math.gcd(ALIGNMENT, self.token_bytes)
        return -(-self.batch * self.kv_heads // step) * step

    @property
    def tensor_bytes(self) -> int:
        """Bytes from one tensor to the next, a multiple of the alignment."""
        return self.strips * self.strip_bytes

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return self.tensors * self.tensor_bytes

    def of(self, tokens: int) -> CacheLayout:
        """Return the same for another number of tokens."""
        return replace(self, tokens=tokens)


def cache_layout(facts: ModelFacts, batch: int) -> CacheLayout:
    """Return the layout of a model's empty cache."""
    return CacheLayout(
        tensors=2 * facts.num_layers,
        batch=batch,
        kv_heads=facts.num_kv_heads,
        tokens=0,
        head_dim=facts.head_dim,
    )


class KeyValues:
    """A cache on the device.

    Args:
        memory: Where it is taken; the content is undefined.
        layout: How it lies.
    """

    def __init__(self, memory: DeviceMemory, layout: CacheLayout) -> None:
        self.layout = layout
        self._block = memory.device.take(layout.nbytes)

    @property
    def address(self) -> int:
        """Where it begins."""
        return self._block.address

    def named(self, prefix: str) -> dict[str, DeviceArray]:
        """Return the tensors by the names of the graph, ``{prefix}.{layer}.key`` and ``.value``."""
        step, shape = self.layout.tensor_bytes, self.layout.shape
        return {
            name: DeviceArray(self._block, self.address + index * step, shape, _ITEM)
            for index, name in enumerate(cache_names(prefix, self.layout.tensors // 2))
        }

    def clear(self, cuda: Cuda) -> None:
        """Queue filling it with zeros: a masked token must not be NaN, which no mask removes."""
        cuda.clear(self.address, self.layout.nbytes)


def copy_tokens(
    cuda: Cuda, source: KeyValues, first: int, destination: KeyValues, at: int, count: int
) -> None:
    """Queue copying a run of tokens from one cache to another, all heads and layers in one call.

    Args:
        cuda: The device.
        source: Where from.
        first: The first token to copy.
        destination: Where to; of another capacity, else alike.
        at: Where the first one goes.
        count: How many.
    """
    old, new = source.layout, destination.layout
    cuda.copy_2d(
        (destination.address + at * new.token_bytes, new.strip_bytes),
        (source.address + first * old.token_bytes, old.strip_bytes),
        width=count * old.token_bytes,
        height=old.tensors * old.strips,
    )
