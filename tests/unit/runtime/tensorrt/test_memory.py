from __future__ import annotations

import numpy as np
import pytest

from moir_edge.errors import EnvironmentProblem
from moir_edge.runtime.tensorrt.cuda import Cuda
from moir_edge.runtime.tensorrt.memory import ALIGNMENT, DeviceMemory, Pool

from .double import CudaDouble

MIB = 1 << 20


class Counter:
    """Memory of 16 MiB that counts what is asked of it."""

    def __init__(self) -> None:
        self.live: dict[int, int] = {}
        self.calls = 0

    def allocate(self, nbytes: int) -> int:
        if sum(self.live.values()) + nbytes > 16 * MIB:
            raise EnvironmentProblem("out of memory")
        self.calls += 1
        self.live[self.calls * MIB * 64] = nbytes
        return self.calls * MIB * 64

    def free(self, address: int) -> None:
        del self.live[address]


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
def pool(counter: Counter) -> Pool:
    return Pool(counter.allocate, counter.free)


@pytest.mark.parametrize(
    ("asked", "given"),
    [(0, 256), (1, 256), (257, 512), (1000, 1024), (2 * MIB - 1, 2 * MIB), (5 * MIB, 6 * MIB)],
)
def test_sizes_are_rounded(pool: Pool, asked: int, given: int) -> None:
    assert pool.take(asked).nbytes == given


def test_a_block_is_used_again_once_nobody_refers_to_it(pool: Pool, counter: Counter) -> None:
    first = pool.take(1000)
    address = first.address
    second = pool.take(1000)
    assert second.address != address
    del first
    third = pool.take(600)
    assert (third.address, third.nbytes, counter.calls) == (address, 1024, 2)


def test_a_large_block_does_not_serve_a_small_request(pool: Pool, counter: Counter) -> None:
    del_me = pool.take(8 * MIB)
    del del_me
    small = pool.take(1000)
    assert (small.nbytes, counter.calls, pool.held_bytes) == (1024, 2, 8 * MIB + 1024)


def test_idle_memory_is_freed_before_giving_up(pool: Pool, counter: Counter) -> None:
    big = pool.take(10 * MIB)
    del big
    kept = pool.take(14 * MIB)  # 10 and 14 do not fit together
    assert list(counter.live.values()) == [14 * MIB]
    assert pool.held_bytes == 14 * MIB
    with pytest.raises(EnvironmentProblem, match="out of memory"):
        pool.take(4 * MIB)
    assert kept.nbytes == 14 * MIB


def test_a_closed_pool_frees_what_comes_back(pool: Pool, counter: Counter) -> None:
    used, idle = pool.take(10), pool.take(10)
    del idle
    pool.close()
    assert len(counter.live) == 1
    del used
    assert not counter.live
    assert pool.held_bytes == 0


def test_arrays_go_there_and_back() -> None:
    memory = DeviceMemory(Cuda(CudaDouble()))
    rng = np.random.default_rng(0)
    arrays = [
        rng.standard_normal((3, 5)).astype(np.float32),
        rng.integers(0, 9, (2, 1, 4)),
        rng.random((2, 7)) > 0.5,
        rng.standard_normal((6, 4)).astype(np.float32)[:, ::2],  # not contiguous
    ]
    there = [memory.upload(array) for array in arrays]
    assert all(array.address % ALIGNMENT == 0 for array in there)
    for array, back in zip(arrays, memory.download(*there), strict=True):
        np.testing.assert_array_equal(back, array)
        assert back.dtype == array.dtype


def test_parts_of_arrays_are_numpys() -> None:
    memory = DeviceMemory(Cuda(CudaDouble()))
    array = np.random.default_rng(2).standard_normal((5, 7, 3)).astype(np.float32)
    there = memory.upload(array)
    parts = [memory.rows(there, slice(0, 2)), memory.rows(there, slice(2, 5))]
    span = memory.span(there, 2, 6)
    joined, taken, middle = memory.download(memory.joined(parts), parts[1], span)
    np.testing.assert_array_equal(joined, array)
    np.testing.assert_array_equal(taken, array[2:5])
    np.testing.assert_array_equal(middle, array[:, 2:6])
    assert parts[1].address % ALIGNMENT == span.address % ALIGNMENT == 0
    assert memory.rows(there, slice(0, 5)) is memory.span(there, 0, 7) is there
