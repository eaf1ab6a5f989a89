"""The matrix of engines: every pair of target and precision is a row or a named refusal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import engines
from benchmarks.engine_tables import EngineRow, Refusal, render_tables, write_tables
from benchmarks.engines import build_matrix
from moir_edge.errors import DataError
from moir_edge.precisions import EXPORTED
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
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| rtx-40 | fp16 | 2.00 | 2.00 | 4.00 | 2.5 | 500 | -12 % |",
        "",
        "Refused:",
        "",
        "- rtx-20, int4: INT4 needs SM 80",
    ]


def test_tables_replace_what_stands_between_the_comments(tmp_path: Path) -> None:
    page = tmp_path / "engines.md"
    page.write_text("before\n<!-- engines:demo -->\nold\n<!-- /engines:demo -->\nafter\n")
    for _ in range(2):
        write_tables(page, "demo", [_row("vision")], [])
    text = page.read_text()
    assert text.startswith("before\n<!-- engines:demo -->\n| target |")
    assert text.endswith("|\n<!-- /engines:demo -->\nafter\n")
    assert "old" not in text
    with pytest.raises(DataError, match="has no <!-- engines:smolvlm-256m -->"):
        write_tables(page, "smolvlm-256m", [], [])


def test_every_pair_is_built_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(model: str, bundle: Path, target: str, precision: str) -> Iterator[EngineRow]:
        yield _row("vision", target=target)

    monkeypatch.setattr(engines, "_trace", lambda *_: None)
    monkeypatch.setattr(engines, "_bundle", lambda *_: tmp_path)
    monkeypatch.setattr(engines, "_build", build)
    rows = list(build_matrix("demo", AHEAD, EXPORTED, tmp_path))
    built = [row for row in rows if isinstance(row, EngineRow)]
    assert len(built) == sum(len(available_precisions(TARGETS[name])) for name in AHEAD)
    refused = [row for row in rows if isinstance(row, Refusal)]
    assert len(built) + len(refused) == len(AHEAD) * len(EXPORTED)
    assert all(row.target in row.reason for row in refused)


def test_the_shipped_page_has_a_place_for_every_model() -> None:
    page = (Path(__file__).parents[3] / "docs" / "engines.md").read_text(encoding="utf-8")
    for model in engines.MODELS:
        assert f"<!-- engines:{model} -->" in page
        assert f"<!-- /engines:{model} -->" in page
