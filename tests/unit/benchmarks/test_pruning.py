from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.pruning.__main__ import MARKS
from benchmarks.pruning.accuracy import _against, _overall
from benchmarks.pruning.candidates import CANDIDATES, DENSITY, RANDOM, REVERSED, SHARES
from benchmarks.pruning.page import accuracy_checks, accuracy_tables, speed_checks, speed_tables
from moir_edge.data.rows import Row
from moir_edge.runtime.pruning import ImageTokens

PAGE = Path(__file__).parents[3] / "docs" / "pruning.md"


def _row(number: int, task: str) -> Row:
    return Row(
        id=f"{task}-{number}", task=task, images=(), prompt="?", context=None, answers=("a",)
    )


def _record(selector: str | None, share: float, recovery: float, over: float) -> dict[str, Any]:
    return {
        "condition": "clean",
        "selector": selector,
        "share": share,
        "score": {"value": 80.0, "low": 79.0, "high": 81.0},
        "recovery": {"value": recovery, "low": recovery - 0.01, "high": recovery + 0.01},
        "over_random": {"value": over, "low": over - 1, "high": over + 1},
    }


def _records() -> list[dict[str, Any]]:
    found = [_record(None, 0.0, 1.0, 0.0)]
    for share in SHARES:
        found += [_record(one, share, 1 - share / 10, 2.0) for one in CANDIDATES]
    return found


def _times(falls: float) -> dict[str, Any]:
    def one(share: float) -> dict[str, Any]:
        ratio = {"value": 1 - falls * share, "low": 1 - falls * share, "high": 1.0, "pairs": 1}
        return {
            "prefill_ms": [1000 * (1 - falls * share)],
            "ttft_ms": [1100.0],
            "pruning_ms": [3.0],
            "peak_bytes": [2e9],
            **dict.fromkeys(("prefill_ratio", "ttft_ratio", "cpu_ratio"), ratio),
        }

    names = {f"{DENSITY} {share:g}": one(share) for share in (0.0, *SHARES)}
    return {
        "times": {**names, "norm 0.5": one(0.5)},
        "precision": "fp32",
        "threads": 1,
        "rounds": 1,
    }


def test_the_reversed_score_keeps_what_density_drops() -> None:
    tokens = ImageTokens(
        embeds=np.ones((4, 2), np.float32), density=np.array([0.1, 0.9, 0.5, 0.2]), seed=0
    )
    assert CANDIDATES[DENSITY].selector(tokens, 2).tolist() == [1, 2]
    assert CANDIDATES[REVERSED].selector(tokens, 2).tolist() == [0, 3]
    assert len({one.seed for one in CANDIDATES[RANDOM].prunings(0.5)}) == 3


def test_points_are_means_of_the_tasks_and_differences_are_paired() -> None:
    rows = [*(_row(n, "vqa") for n in range(3)), _row(0, "statement")]
    own, random = [1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0]
    assert _overall(rows, own).value == pytest.approx((100 * 2 / 3 + 100) / 2)
    found = _against(rows, own, own, random)
    assert found["recovery"]["value"] == 1
    assert found["over_random"]["value"] == pytest.approx(100 / 3 / 2)
    assert _against(rows, own, own, own)["over_random"] == {"value": 0, "low": 0, "high": 0}


def test_bounds_are_those_of_the_release() -> None:
    recovery, over = accuracy_checks(_records())
    assert (recovery.minimum, over.minimum) == (0.99, 1.0)
    assert not recovery.passed  # 0.975
    assert over.passed
    assert all(one.passed for one in speed_checks(_times(0.9)))
    assert not any(one.passed for one in speed_checks(_times(0.7)))


def test_tables_name_every_way_to_choose_and_share() -> None:
    table = accuracy_tables(_records())
    assert "Whole prompts score 80.0 (79.0–81.0) points on clean rows." in table
    assert all(f"| {one} |" in table for one in CANDIDATES)
    assert "| density over random, points | +2.0 (+1.0 to +3.0) |" in table
    times = speed_tables(_times(0.9))
    assert "| 0.5 | 550 ms | 45 %" in times
    assert "| norm | 3.0 ms |" in times


def test_the_page_has_a_place_for_each_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for part in ("answers", "times"):
        assert all(mark.format(part) in text for mark in MARKS)
