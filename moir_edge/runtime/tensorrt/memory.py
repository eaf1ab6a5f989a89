"""Memory that is taken once and used again: blocks of a pool, and arrays on the device that lie in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.errors import EnvironmentProblem
from moir_edge.runtime.tensorrt.cuda import Cuda

__all__ = ["ALIGNMENT", "Block", "DeviceArray", "DeviceMemory", "Pool", "view_of"]

ALIGNMENT = 256
"""Bytes that TensorRT wants every address to be a multiple of."""

_LARGE = 1 << 21  # from here on sizes are rounded to this, below to a power of two
_SLACK = 2  # a free block serves a request of at least its half


class Block:
    """A piece of memory that goes back to its pool when nothing refers to it any more.

    Work that is queued may still use it then: whoever takes it next queues on the same stream, after that work.

    Attributes:
        address: Where it begins.
        nbytes: Its size.
    """

    def __init__(self, pool: Pool, address: int, nbytes: int) -> None:
        self._pool = pool
        self.address = address
        self.nbytes = nbytes

    def __del__(self) -> None:
        self._pool.give_back(self.address, self.nbytes)


class Pool:
    """Blocks of one kind of memory; what is free is kept for the next one who asks.

    Args:
        allocate: Returns the address of so many bytes.
        free: Takes an address back.
    """

    def __init__(self, allocate: Callable[[int], int], free: Callable[[int], None]) -> None:
        self._allocate = allocate
        self._free = free
        self._idle: list[tuple[int, int]] = []  # (bytes, address), smallest first
        self._closed = False
        self.held_bytes = 0

    def take(self, nbytes: int) -> Block:
        """Return a block of at least so many bytes; its content is undefined.

        Raises:
            EnvironmentProblem: The memory is exhausted.
        """
        size = _rounded(nbytes)
        for index, (idle, address) in enumerate(self._idle):
            if size <= idle <= _SLACK * size:
                del self._idle[index]
                return Block(self, address, idle)
        return Block(self, self._new(size), size)

    def give_back(self, address: int, nbytes: int) -> None:
        """Take a block's memory back; called by the block itself."""
        if self._closed:
            self._free(address)
            self.held_bytes -= nbytes
            return
        self._idle.append((nbytes, address))
        self._idle.sort()

    def trim(self) -> None:
        """Free what nobody uses."""
        for nbytes, address in self._idle:
            self._free(address)
            self.held_bytes -= nbytes
        self._idle.clear()

    def close(self) -> None:
        """Free what nobody uses, now and whenever a block comes back."""
        self._closed = True
        self.trim()

    def _new(self, size: int) -> int:
        try:
            address = self._allocate(size)
        except EnvironmentProblem:
            if not self._idle:
                raise
            self.trim()
            address = self._allocate(size)
        self.held_bytes += size
        return address


def _rounded(nbytes: int) -> int:
    """Return the size of the block for a request; nothing is smaller than one alignment."""
    if nbytes >= _LARGE:
        return -(-nbytes // _LARGE) * _LARGE
    return int(max(ALIGNMENT, 1 << (nbytes - 1).bit_length())) if nbytes > 1 else ALIGNMENT


@dataclass(frozen=True)
class DeviceArray:
    """A packed array on the device.

    Attributes:
        block: The memory that it lies in, kept as long as the array is.
        address: Where it begins.
        shape: Its shape.
        dtype: The type of its elements.
    """

    block: Block
    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class DeviceMemory:
    """Takes, fills and reads arrays on the device.

    Args:
        cuda: The device.
    """

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.device = Pool(cuda.allocate, cuda.free)
        self.pinned = Pool(cuda.allocate_pinned, cuda.free_pinned)

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> DeviceArray:
        """Return an array whose content is undefined."""
        kind = np.dtype(dtype)
        block = self.device.take(math.prod(shape) * kind.itemsize)
        return DeviceArray(block, block.address, shape, kind)

    def upload(self, array: npt.NDArray[Any]) -> DeviceArray:
        """Return a copy of a host array on the device; the copy is queued."""
        packed = np.ascontiguousarray(array)
        copy = self.empty(packed.shape, packed.dtype)
        self.cuda.upload(copy.address, packed)
        return copy

    def download(self, *arrays: DeviceArray) -> list[npt.NDArray[Any]]:
        """Return copies of device arrays on the host; waits for all that was queued."""
        copies = [np.empty(array.shape, array.dtype) for array in arrays]
        for copy, array in zip(copies, arrays, strict=True):
            self.cuda.download(copy, array.address)
        self.cuda.synchronize()
        return copies

    def joined(self, parts: Sequence[DeviceArray]) -> DeviceArray:
        """Return arrays one behind the other along the first axis; waits until they are computed."""
        whole = parts[0]
        if len(parts) > 1:
            count = sum(part.shape[0] for part in parts)
            whole = self.empty((count, *whole.shape[1:]), whole.dtype)
            address = whole.address
            for part in parts:
                self.cuda.copy(address, part.address, part.nbytes)
                address += part.nbytes
        self.cuda.synchronize()
        return whole

    def rows(self, array: DeviceArray, rows: slice) -> DeviceArray:
        """Return ``array[rows]``: the array itself if it is all of them, else a copy, which is aligned."""
        count = rows.stop - rows.start
        if count == array.shape[0]:
            return array
        part = self.empty((count, *array.shape[1:]), array.dtype)
        offset = rows.start * (array.nbytes // array.shape[0])
        self.cuda.copy(part.address, array.address + offset, part.nbytes)
        return part

    def span(self, array: DeviceArray, start: int, stop: int) -> DeviceArray:
        """Return ``array[:, start:stop]`` of three axes: the array itself if it is all, else a packed copy."""
        batch, length, width = array.shape
        if stop - start == length:
            return array
        part = self.empty((batch, stop - start, width), array.dtype)
        step = width * array.dtype.itemsize
        run = (stop - start) * step
        source = (array.address + start * step, length * step)
        self.cuda.copy_2d((part.address, run), source, run, batch)
        return part

    def close(self) -> None:
        """Free what is idle; blocks that are still referred to are freed with their last reference."""
        self.device.close()
        self.pinned.close()


def view_of(block: Block, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return a block of page-locked host memory as an array; the caller keeps the block."""
    import ctypes

    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = (ctypes.c_byte * size).from_address(block.address)
    array: npt.NDArray[Any] = np.frombuffer(memoryview(raw), dtype)
    return array.reshape(shape)
