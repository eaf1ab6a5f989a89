from __future__ import annotations

from typing import Any

from benchmarks.peers.first_token import table


def test_router_pairs_have_a_column_for_each_number_of_image_tokens() -> None:
    own = "moir-edge int4"
    record: dict[str, Any] = {
        "machine": {"cpu": "C", "load_average_before": 0.0, "load_average_after": 0.0},
        "settings": {"threads": 2, "rounds": 3},
        "ttft_ms": {
            "transformers fp32": [100.0, 100.0],
            "transformers bf16": [50.0, 50.0],
            own: [25.0, 25.0],
        },
        "router_on_off_ms": {
            "1": {own: [(10.1, 10.0, 0.101)] * 3},
            "17": {own: [(200.0, 100.0, 50.0)] * 3},
        },
        "second_question_ms": {own: [(40.0, 10.0)]},
    }
    lines = table(record).splitlines()
    head = next(line for line in lines if "first token ms" in line)
    assert "router on against off, and its own share; 64 image tokens" in head
    assert "router on against off, and its own share; 1,088 image tokens" in head
    row = next(line for line in lines if line.startswith(f"| {own} "))
    assert row.strip("| ").split(" | ") == [
        own,
        "25",
        "0.25×",
        "0.50×",
        "+1.0 % (+1.0 to +1.0); 1.00 %",
        "+100.0 % (+100.0 to +100.0); 25.00 %",
        "0.25×",
    ]
    peer = next(line for line in lines if line.startswith("| transformers fp32"))
    assert peer.split("|")[5:8] == [" ", " ", " "]
