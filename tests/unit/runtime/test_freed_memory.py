"""Memory that is free goes back to the system: holes of the heap, large blocks, and activations of a run that asks for it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from moir_edge.bundle import open_bundle
from moir_edge.graphs.sessions import cpu_session
from moir_edge.runtime.component import Component
from moir_edge.runtime.freed_memory import give_back_freed_memory
from moir_edge.runtime.providers import open_graph

MB = 1 << 20
BLOCK, BLOCKS = 64 << 10, 1024


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_holes_of_the_heap_go_back() -> None:
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    blocks = [library.malloc(BLOCK) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK)
    kept, freed = blocks[15::16], [block for at, block in enumerate(blocks) if at % 16 < 15]
    for block in freed:  # the ones between stay, so that the C library keeps the holes
        library.free(block)
    before = resident()
    give_back_freed_memory()
    assert before - resident() > BLOCK * BLOCKS * 0.8
    for block in kept:
        library.free(block)


# Freeing one block of 16 MB lets the C library put the next one of 2 MB into the heap; the count is of blocks that are mapped.
MAPPED = """
import ctypes
from moir_edge.runtime.freed_memory import large_blocks_apart
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
library.mallinfo2.restype = Info
large_blocks_apart()
library.free(library.malloc(16 << 20))
before = library.mallinfo2().hblks
library.malloc(2 << 20)
print(library.mallinfo2().hblks - before)
"""


@pytest.mark.parametrize(
    ("environment", "mapped"),
    [({}, 1), ({"MALLOC_MMAP_THRESHOLD_": str(64 * MB)}, 0)],
    ids=["by itself", "as the environment says"],
)
def test_large_blocks_are_mapped_one_by_one(environment: dict[str, str], mapped: int) -> None:
    found = subprocess.run(
        [sys.executable, "-c", MAPPED],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(found.stdout) == mapped


@pytest.fixture
def wide(tmp_path: Path) -> Component:
    """A graph whose one activation takes 128 MB."""
    size = numpy_helper.from_array(np.array([32 * MB], np.int64), "size")
    graph = helper.make_graph(
        [
            # ONNX Runtime keeps the region of the first activation, here a small one.
            helper.make_node("Exp", ["x"], ["small"]),
            helper.make_node("Expand", ["small", "size"], ["wide"]),
            helper.make_node("Sqrt", ["wide"], ["root"]),
            helper.make_node("ReduceSum", ["root"], ["sum"], keepdims=0),
        ],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [])],
        [size],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "wide.onnx")
    return Component(cpu_session(str(tmp_path / "wide.onnx")), "wide")


@pytest.mark.parametrize("give_back", [True, False])
def test_activations_go_back_where_that_is_asked_for(wide: Component, give_back: bool) -> None:
    before = resident()
    feed = {"x": np.zeros(1, np.float32)}
    assert wide.arrays(feed, ["sum"], give_back=give_back)[0] == 32 * MB
    kept = resident() - before
    assert kept < 16 * MB if give_back else kept > 100 * MB


def test_a_session_keeps_no_pattern_of_its_activations(tiny_bundle: Path) -> None:
    session = open_graph(open_bundle(tiny_bundle), "vision", "cpu", 1).session
    assert not session.get_session_options().enable_mem_pattern
