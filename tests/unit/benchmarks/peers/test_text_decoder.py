from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.peers.gguf_file import _interleaved
from benchmarks.peers.llama_cpp_peer import require_llama_cpp
from benchmarks.peers.text_decoder import table
from moir_edge.errors import EnvironmentProblem

Rows = npt.NDArray[Any]


def _turn_halves(head: Rows, angles: Rows) -> Rows:
    """Rotate a head as Llama does: entry i with entry i + half."""
    first, second = np.split(head, 2)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin])


def _turn_neighbours(head: Rows, angles: Rows) -> Rows:
    """Rotate a head as llama.cpp does: entry 2i with entry 2i + 1."""
    cos, sin = np.cos(angles), np.sin(angles)
    turned = np.empty_like(head)
    turned[::2] = head[::2] * cos - head[1::2] * sin
    turned[1::2] = head[1::2] * cos + head[::2] * sin
    return turned


def test_reordered_rows_give_the_same_attention() -> None:
    heads, size, width = 3, 8, 5
    generator = np.random.default_rng(0)
    queries, keys = generator.standard_normal((2, heads * size, width))
    x, y = generator.standard_normal((2, width))
    near, far = generator.standard_normal((2, size // 2))

    wanted = [
        _turn_halves(q, near) @ _turn_halves(k, far)
        for q, k in zip(
            (queries @ x).reshape(heads, -1), (keys @ y).reshape(heads, -1), strict=True
        )
    ]
    q_rows, k_rows = (_interleaved(one, heads) for one in (queries, keys))
    found = [
        _turn_neighbours(q, near) @ _turn_neighbours(k, far)
        for q, k in zip(
            (q_rows @ x).reshape(heads, -1), (k_rows @ y).reshape(heads, -1), strict=True
        )
    ]
    assert found == pytest.approx(wanted)


def test_factors_are_against_genai_of_the_same_bits() -> None:
    names = ("moir-edge fp32", "moir-edge fp32, decoder.onnx", "GenAI fp32", "llama.cpp fp32")
    names += ("moir-edge int4-head-int4", "GenAI int4", "llama.cpp int4", "OpenVINO GenAI int4")
    times = dict(zip(names, (20.0, 30.0, 40.0, 10.0, 3.0, 4.0, 5.0, 2.0), strict=True))
    figures = {
        name: {"prefill_ms": 10 * ms, "decode_ms_per_token": ms} for name, ms in times.items()
    }
    text = table(
        {
            "machine": {"cpu": "C", "load_average_before": 0.0, "load_average_after": 0.0},
            "settings": {"threads": 2},
            "bandwidth_bytes_per_s": [2e10],
            "contexts": {"92": {"sleep": figures}},
            "limit_ms": {"92": {"fp32": 9.5}},
        }
    )
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row.strip("| ").split(" | ")[2] for row in rows[:-1]] == [
        "20.0 (0.50×)",
        "30.0 (0.75×)",
        "40.0",
        "10.0 (0.25×)",
        "3.0 (0.75×)",
        "4.0",
        "5.0 (1.25×)",
        "2.0 (0.50×)",
    ]
    assert rows[-1].strip("| ").endswith("9.5")


def test_llama_cpp_is_asked_for_by_its_packages_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EnvironmentProblem, match="pip install llama-cpp-python"):
        require_llama_cpp()
