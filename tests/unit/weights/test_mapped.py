"""Pages of mapped weights go back to the system, and those of other memory stay."""

from __future__ import annotations

import gc
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from moir_edge.weights.mapped import MappedFiles, trim_memory

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux says where a file is mapped"
)


def mapped(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """Return a file of weights and a weight that lies in it."""
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(1 << 20, dtype=torch.float32)}, path)
    with safe_open(path, "pt") as file:
        return path, file.get_slice("a")[...]


def resident_kilobytes(path: Path) -> int:
    """Return how much of a mapped file is in this process's memory."""
    text = Path("/proc/self/smaps").read_text()
    entry = text.split(str(path), maxsplit=1)[1]
    found = re.search(r"Rss:\s+(\d+) kB", entry)
    assert found is not None
    return int(found[1])


def test_pages_go_back_and_come_again(tmp_path: Path) -> None:
    path, weight = mapped(tmp_path)
    files = MappedFiles([path], [weight])
    assert files.holds(weight)
    total = float(weight.double().sum())
    assert resident_kilobytes(path) > 4000
    files.give_back(weight)
    assert resident_kilobytes(path) < 100
    assert float(weight.double().sum()) == total


def test_memory_outside_the_files_is_left_alone(tmp_path: Path) -> None:
    path, weight = mapped(tmp_path)
    copy = weight.clone()
    for files in (MappedFiles([path], [weight]), MappedFiles(), MappedFiles([path])):
        assert not files.holds(copy)
        files.give_back(copy)
        torch.testing.assert_close(copy, weight, rtol=0, atol=0)


def test_mapping_lasts_as_long_as_its_record(tmp_path: Path) -> None:
    """Addresses that other memory took over would lose what stands there."""
    path, weight = mapped(tmp_path)
    files = MappedFiles([path], [weight])
    del weight
    assert str(path) in Path("/proc/self/maps").read_text()
    del files
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_what_holds_itself_goes_back() -> None:
    class Graph:
        def __init__(self) -> None:
            self.me = self
            self.weight = np.ones(1 << 22, np.float32)

    gc.disable()
    try:
        graphs = [Graph() for _ in range(4)]
        del graphs
        before = resident_bytes()
        trim_memory()
        assert before - resident_bytes() > 3 << 24
    finally:
        gc.enable()


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
