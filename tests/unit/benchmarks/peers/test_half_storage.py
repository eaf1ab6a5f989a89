from __future__ import annotations

from benchmarks.peers.half_storage import PRECISIONS, table
from moir_edge.targets import available_precisions, get_target


def test_every_precision_is_one_of_a_processor() -> None:
    assert set(PRECISIONS) <= set(available_precisions(get_target("cpu")))


def test_a_row_has_every_figure() -> None:
    record = {
        "precision": "bf16",
        "weights_bytes": 458_000_000,
        "load_s": 2.46,
        "peak_memory_bytes": 1_250_000_000,
        "first_token_s": 0.512,
        "token_s": 0.0221,
    }
    assert "| `bf16` | 458 | 2.5 | 0.51 | 22 | 1250 |" in table([record])
