"""The profile of a decoded token, from what ONNX Runtime's profiler writes."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.peers.decode_profile import RUN, table, token_times


def kernel(operator: str, start: int, microseconds: int) -> dict[str, object]:
    return {
        "cat": "Node",
        "name": f"{operator}_1_kernel_time",
        "ts": start,
        "dur": microseconds,
        "args": {"op_name": operator},
    }


def test_the_last_runs_are_summed_by_operator(tmp_path: Path) -> None:
    """The run of the prompt comes first and does not count."""
    events = [
        {"cat": "Session", "name": "model_run", "ts": 0, "dur": 90_000},
        kernel("MatMul", 10, 80_000),
        {"cat": "Session", "name": "model_run", "ts": 100_000, "dur": 5_000},
        kernel("MatMul", 100_100, 2_000),
        kernel("Split", 102_200, 500),
        {"cat": "Session", "name": "model_run", "ts": 200_000, "dur": 7_000},
        kernel("MatMul", 200_100, 4_000),
        {"cat": "Node", "name": "MatMul_1_fence_before", "ts": 200_100, "dur": 9_000},
    ]
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(events))
    assert token_times(file, 2) == {RUN: 6.0, "MatMul": 3.0, "Split": 0.25}


def test_the_table_names_what_takes_a_hundredth_and_sums_the_rest() -> None:
    ours = [{RUN: 10.0, "MatMul": 7.0, "Split": 1.0, "Shape": 0.05}] * 2
    theirs = [{RUN: 9.0, "MatMul": 8.0, "Cast": 0.02}, {RUN: 9.0, "MatMul": 8.2}]
    record = {
        "settings": {"threads": 2, "rounds": 2, "tokens": 4, "context": 92},
        "machine": {"cpu": "a CPU", "load_average_before": 0.1, "load_average_after": 0.2},
        "samples": {"moir-edge int4": ours, "GenAI int4": theirs},
    }
    assert table(record).splitlines()[4:] == [
        "| `MatMul` | 7.00 | 8.10 |",
        "| `Split` | 1.00 | |",
        "| other operators | 0.05 | 0.01 |",
        "| between operators | 1.95 | 0.89 |",
        "| whole run | 10.00 | 9.00 |",
    ]
