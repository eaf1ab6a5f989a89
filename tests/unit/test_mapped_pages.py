"""Pages of mapped files: where they lie, which were written to, and that they come back with what the file says."""

from __future__ import annotations

import mmap
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from moir_edge.graphs.sessions import cpu_session
from moir_edge.mapped_pages import give_back_pages, mapped_ranges, written_ranges
from moir_edge.runtime.component import Component

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux says where a file is mapped"
)

MB = 1 << 20


def resident(path: Path) -> int:
    """Return how many bytes of a mapped file are in this process's memory."""
    entries = re.split(
        r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.M
    )
    found = [entry for entry in entries if entry.partition("\n")[0].endswith(str(path))]
    return sum(int(re.findall(r"^Rss:\s+(\d+) kB", entry, re.M)[0]) << 10 for entry in found)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a file"
    path.write_bytes(b"m" * 4 * MB)
    return path


def test_pages_go_back_and_come_again(file: Path) -> None:
    with (
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        assert mapped[:] == b"m" * 4 * MB
        ((start, end),) = mapped_ranges([file])
        assert end - start == 4 * MB
        assert resident(file) == 4 * MB
        give_back_pages(start, end)
        assert resident(file) == 0
        assert mapped[:] == b"m" * 4 * MB
    assert mapped_ranges([file]) == []
    assert mapped_ranges([]) == []


def test_a_range_that_was_written_to_is_told(file: Path) -> None:
    with (
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY) as mapped,
    ):
        ranges = mapped_ranges([file])
        assert mapped[MB] == ord("m")
        assert written_ranges(ranges) == []
        mapped[MB] = 0
        assert written_ranges(ranges) == ranges
        assert written_ranges([]) == []


@pytest.fixture
def added(tmp_path: Path) -> Path:
    """A graph that adds 8 MB of weights, which ONNX Runtime maps and does not pack."""
    weights = numpy_helper.from_array(np.arange(2 * MB, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["sum"])],
        "added",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [2 * MB])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "added.onnx", save_as_external_data=True, location="added.data", size_threshold=0)  # fmt: skip
    return tmp_path / "added.onnx"


def test_weights_of_a_session_go_back_until_it_runs_again(added: Path) -> None:
    data, feed = added.with_name("added.data"), {"x": np.ones(1, np.float32)}
    component = Component(cpu_session(str(added)), "added", data)
    first = component.arrays(feed, ["sum"])[0]
    assert resident(data) >= 8 * MB
    component.give_back_weights()
    assert resident(data) == 0
    assert np.array_equal(component.arrays(feed, ["sum"])[0], first)
    assert first[-1] == 2 * MB


def test_weights_that_a_session_copied_are_left_alone(added: Path) -> None:
    data = added.with_name("added.data")
    component = Component(cpu_session(str(added)), "added")
    component.arrays({"x": np.ones(1, np.float32)}, ["sum"])
    before = resident(data)
    component.give_back_weights()
    assert resident(data) == before
