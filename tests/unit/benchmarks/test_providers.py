"""The script that measures the providers of a CPU side by side."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import moir_edge
from benchmarks import providers
from benchmarks.common import write_json
from benchmarks.providers import BEGIN, CONTEXTS, END, PROVIDERS, main, tables
from moir_edge.export import assemble
from tests.unit.conftest import require_openvino

RECOVERY = {"value": 0.99, "low": 0.98, "high": 1.0}


def record() -> dict[str, Any]:
    keys = [
        "ttft_ms",
        "vision_ms",
        *(f"{k}_{n}_ms" for k in ("prefill", "decode") for n in CONTEXTS),
    ]
    speed = {
        name: {"load_ms": [2000.0, 500.0], **{key: [80.0 / at, 90.0 / at, 500.0] for key in keys}}
        for at, name in enumerate(PROVIDERS, start=1)
    }
    agreement = {"recovery": RECOVERY, "token_agreement": {"identical": 0.5}, "routing": None}
    return {
        "machine": {
            "cpu": "A CPU",
            "load_average_before": 1.0,
            "load_average_after": 2.0,
            "steal_percent": None,
        },
        "settings": {"threads": 2, "rounds": 3, "rows": 7},
        "speed": {"int4": speed},
        "agreement": {"int4 on openvino": agreement},
    }


def test_factors_are_of_medians_against_onnx_runtime() -> None:
    text = tables(record())
    assert "A CPU, 2 threads, 3 rounds; load 1.0 to 2.0, steal unknown" in text
    cells = [line.split(" | ") for line in text.splitlines() if line.startswith("| `int4` on")]
    assert [row[0] for row in cells] == [f"| `int4` on `{name}`" for name in PROVIDERS]
    assert cells[1][1:3] == ["2.0 / 0.5", "45.0 (2.00×)"]
    assert len(cells[2]) == 4 + 2 * len(CONTEXTS)
    assert "| `int4 on openvino` | 99.0 % (98.0–100.0) | 50.0 % | – | – |" in text


def test_an_earlier_run_is_printed_into_a_page(tmp_path: Path) -> None:
    page, kept = tmp_path / "page.md", tmp_path / "kept.json"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    write_json(kept, record())
    assert main(["-q", "--read", str(kept), "--write", str(page)]) == 0
    assert page.read_text(encoding="utf-8") == (
        f"before\n{BEGIN}\n{tables(record())}\n{END}\nafter\n"
    )


def test_every_provider_is_timed_on_the_same_work(
    traced_models: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_openvino()
    bundle = assemble(traced_models("llava"), tmp_path / "bundle")
    monkeypatch.setattr(providers, "CONTEXTS", (3, 5))
    monkeypatch.setattr(providers, "_FIRST_WORD", 3)
    monkeypatch.setattr(providers, "VOCABULARY_SIZE", 20)
    before = os.environ.get("XDG_CACHE_HOME")
    with providers._empty_cache():
        found = providers._times(bundle, 1, 2)
        assert os.environ["XDG_CACHE_HOME"] != before
    assert os.environ.get("XDG_CACHE_HOME") == before
    counts = {key: len(samples) for key, samples in found["cpu"].items()}
    assert counts == {
        "load_ms": 2,
        "ttft_ms": 2,
        "vision_ms": 2,
        "prefill_3_ms": 2,
        "decode_3_ms": 16,
        "prefill_5_ms": 1,
        "decode_5_ms": 16,
    }
    assert [list(found[name]) for name in PROVIDERS] == [list(counts)] * len(PROVIDERS)
    model = moir_edge.load(bundle, provider="openvino", threads=1)
    decoder = providers._Decoder(model, 4)
    decoder.prefill()
    decoder.steps()
    state = decoder._state
    assert state.attention_mask.shape == (1, 4 + providers._STEPS)
