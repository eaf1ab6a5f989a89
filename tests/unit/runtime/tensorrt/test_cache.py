from __future__ import annotations

import numpy as np
import pytest

from moir_edge.runtime.tensorrt.cache import CacheLayout, KeyValues, copy_tokens
from moir_edge.runtime.tensorrt.cuda import Cuda
from moir_edge.runtime.tensorrt.memory import ALIGNMENT, DeviceMemory

from .double import CudaDouble


def _layout(tokens: int, *, batch: int = 2, heads: int = 3, dim: int = 24) -> CacheLayout:
    return CacheLayout(tensors=4, batch=batch, kv_heads=heads, tokens=tokens, head_dim=dim)


@pytest.mark.parametrize("dim", [1, 8, 24, 48, 64, 80, 128])
@pytest.mark.parametrize("heads", [1, 3, 8])
@pytest.mark.parametrize("tokens", [1, 7, 257])
def test_every_tensor_is_aligned(dim: int, heads: int, tokens: int) -> None:
    layout = _layout(tokens, heads=heads, dim=dim)
    assert layout.tensor_bytes % ALIGNMENT == 0
    assert layout.strips >= layout.batch * layout.kv_heads
    assert layout.strips == layout.of(1).strips
    if dim % 64 == 0:
        assert layout.nbytes == 4 * 2 * heads * tokens * dim * 4  # nothing is wasted


def test_tokens_of_all_layers_and_heads_move_in_one_copy() -> None:
    api = CudaDouble()
    memory = DeviceMemory(Cuda(api))
    source, target = KeyValues(memory, _layout(9)), KeyValues(memory, _layout(5))
    rng = np.random.default_rng(1)
    values = [rng.standard_normal((2, 3, 9, 24)).astype(np.float32) for _ in range(4)]
    for array, value in zip(source.named("present").values(), values, strict=True):
        memory.cuda.upload(array.address, value)
    target.clear(memory.cuda)
    memory.cuda.synchronize()
    api.copies.clear()
    copy_tokens(memory.cuda, source, 6, target, 1, 3)
    memory.cuda.synchronize()
    assert len(api.copies) == 1
    moved = memory.download(*target.named("past").values())
    for before, after in zip(values, moved, strict=True):
        np.testing.assert_array_equal(after[:, :, 1:4], before[:, :, 6:9])
        assert not after[:, :, 0].any()
        assert not after[:, :, 4].any()


def test_tensors_have_the_graphs_names() -> None:
    memory = DeviceMemory(Cuda(CudaDouble()))
    named = KeyValues(memory, _layout(5)).named("past_key_values")
    assert list(named) == [
        "past_key_values.0.key",
        "past_key_values.0.value",
        "past_key_values.1.key",
        "past_key_values.1.value",
    ]
    assert {array.shape for array in named.values()} == {(2, 3, 5, 24)}


def test_a_cache_without_tokens_has_an_address_for_every_tensor() -> None:
    memory = DeviceMemory(Cuda(CudaDouble()))
    empty = KeyValues(memory, _layout(0)).named("past")
    assert all(array.address and not array.nbytes for array in empty.values())
