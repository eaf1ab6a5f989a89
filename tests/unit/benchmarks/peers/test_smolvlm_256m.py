from __future__ import annotations

from typing import Any

import pytest

from benchmarks.demo_training.build import CHAT_TEMPLATE
from benchmarks.peers.checkpoint import PROMPT, PROMPT_TOKENS, vocabulary
from benchmarks.peers.limits import decode_bytes, limit_ms, read_bandwidth
from benchmarks.peers.smolvlm_256m import main, table
from moir_edge.bundle import Manifest
from moir_edge.bundle.manifest import ComponentEntry, ModelFacts, SourceEntry


def _component(tensor_bytes: int) -> ComponentEntry:
    return ComponentEntry(
        graph="g.onnx", precision="fp32", tensor_bytes=tensor_bytes, inputs=(), outputs=()
    )


def _manifest() -> Manifest:
    return Manifest(
        created_with={},
        source=SourceEntry(name="n", sha256="0", architecture="A"),
        model=ModelFacts(
            model_type="smolvlm",
            hidden_size=8,
            num_layers=2,
            num_kv_heads=3,
            head_dim=4,
            vocab_size=9,
            context_length=64,
            image_token_id=1,
            eos_token_ids=(2,),
            pad_token_id=0,
            special_token_ids=(),
            image_size=8,
            tokens_per_tile=4,
        ),
        target="cpu",
        precision="fp32",
        router=None,
        router_sha256=None,
        components={name: _component(size) for name, size in _SIZES.items()},
    )


_SIZES = {"vision": 70000, "embedding": 500, "router": 9000, "decoder": 1000}


def test_a_step_reads_decoder_table_and_cache_only() -> None:
    # key and value × 2 layers × 3 heads × 4 channels × 10 tokens × 4 bytes
    assert decode_bytes(_manifest(), 10) == 1000 + 500 + 2 * 2 * 3 * 4 * 10 * 4


def test_limit_is_bytes_over_bandwidth() -> None:
    assert limit_ms(538_000_000, 26.9e9) == pytest.approx(20.0)  # worked by hand


def test_bandwidth_gives_one_positive_sample_per_pass() -> None:
    samples = read_bandwidth(2, repeats=3, array_bytes=1 << 16)
    assert len(samples) == 3
    assert min(samples) > 0


def test_vocabulary_is_full_and_ids_are_consecutive() -> None:
    words = vocabulary()
    assert sorted(words.values()) == list(range(49280))


def test_prompt_has_the_promised_length() -> None:
    """Every byte is one token, special tokens are one each: counted from the rendered template."""
    import jinja2

    content: list[dict[str, Any]] = [{"type": "image"}, {"type": "text", "text": PROMPT}]
    text = jinja2.Template(CHAT_TEMPLATE).render(
        messages=[{"role": "user", "content": content}], add_generation_prompt=True
    )
    for special, tokens in (("<|im_start|>", 1), ("<end_of_utterance>", 1), ("<image>", 64 + 3)):
        assert text.count(special) == 1
        text = text.replace(special, "#" * tokens)
    assert len(text) == PROMPT_TOKENS


def _candidate(name: str, ms: float) -> dict[str, Any]:
    return {
        "name": name,
        "precision": "fp32",
        "ttft_ms": 10 * ms,
        "vision_ms": 7 * ms,
        "prefill_ms": 3 * ms,
        "decode_ms_per_token": ms,
        "decode_limit_ms": 2.5,
        "router_overhead": {
            "component_share": 0.00456,
            "overhead": {"value": 0.0125, "low": -0.005, "high": 0.03},
        },
        "weights_bytes": 912_000_000,
        "peak_memory_bytes": 1_300_000_000,
    }


def test_table_shows_factors_against_the_first_candidate() -> None:
    result = {
        "machine": {
            "cpu": "Some CPU",
            "load_average_before": 0.1,
            "load_average_after": 2.0,
            "steal_percent": None,
        },
        "settings": {"threads": 2},
        "bandwidth_bytes_per_s": [30e9, 31e9, 26e9],
        "candidates": [_candidate("peer", 20.0), _candidate("moir-edge", 8.0)],
    }
    lines = table(result).splitlines()
    assert lines[0] == (
        "Some CPU, 2 threads, reads 31.0 GB/s at best (30.0 median); load 0.1 to 2.0, steal unknown"
    )
    assert lines[-1] == (
        "| moir-edge fp32 | 80 (2.50×) | 56 (2.50×) | 24 (2.50×) | 8.0 (2.50×) | 2.5 "
        "| 0.46 | +1.2 (-0.5 to +3.0) | 912 | 1300 |"
    )


def test_zero_rounds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["-o", "result.json", "--rounds", "0"])
    assert "must be at least 1" in capsys.readouterr().err
