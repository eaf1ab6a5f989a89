"""The matrix of engines: every pair of target and precision is a row or a named refusal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import engines
from benchmarks.engine_tables import EngineRow, Refusal, render_tables
from benchmarks.engines import build_matrix, marks
from moir_edge.precisions import PRECISIONS
from moir_edge.progress import silent
from moir_edge.targets import TARGETS, available_precisions

AHEAD = [name for name, target in TARGETS.items() if target.builds_ahead_of_time]


def _row(component: str, *, peak: int = 400, target: str = "rtx-40") -> EngineRow:
    return EngineRow(
        model="demo",
        target=target,
        precision="fp16",
        component=component,
        weight_bytes=10**6,
        engine_bytes=2 * 10**6,
        seconds=1.25,
        peak_memory_bytes=peak * 10**6,
        estimated_memory_bytes=440 * 10**6,
    )


REFUSED = Refusal(model="demo", target="rtx-20", precision="int4", reason="INT4 needs SM 80")


def test_one_line_per_target_and_precision() -> None:
    tables = render_tables([_row("vision"), _row("decoder", peak=500)], [REFUSED])
    assert tables.splitlines() == [
        "| target | precision | vision | decoder | all, MB | time, s | peak, MB | estimate |",
        "|---|---|---|---|---|---|---|---|",
        "| rtx-40 | fp16 | 2.00 | 2.00 | 4.00 | 2.5 | 500 | -12 % |",
        "",
        "Refused:",
        "",
        "- rtx-20, int4: INT4 needs SM 80",
    ]


def test_every_pair_is_built_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(model: str, bundle: Path, target: str, precision: str) -> Iterator[EngineRow]:
        yield _row("vision", target=target)

    monkeypatch.setattr(engines, "_trace", lambda *_: None)
    monkeypatch.setattr(engines, "_bundle", lambda *_: tmp_path)
    monkeypatch.setattr(engines, "_build", build)
    rows = list(build_matrix("demo", AHEAD, PRECISIONS, tmp_path, silent))
    built = [row for row in rows if isinstance(row, EngineRow)]
    assert len(built) == sum(len(available_precisions(TARGETS[name])) for name in AHEAD)
    refused = [row for row in rows if isinstance(row, Refusal)]
    assert len(built) + len(refused) == len(AHEAD) * len(PRECISIONS)
    assert all(row.target in row.reason for row in refused)


def test_the_shipped_page_has_a_place_for_every_model() -> None:
    page = (Path(__file__).parents[3] / "docs" / "engines.md").read_text(encoding="utf-8")
    for model in engines.MODELS:
        assert all(mark in page for mark in marks(model))
