"""How a bundle starts: processes with kept graphs and without, a table, and the bound of the peak."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import start


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the worker reads /proc")
def test_a_bundle_is_started_with_kept_graphs_and_without(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n{}\nold\n{}\nafter\n".format(*start.MARKS))
    words = [str(tiny_bundle), "--rounds", "1", "--write", str(page), "--json", "-q"]
    assert start.main(words) == 0
    record = json.loads(capsys.readouterr().out)
    (found,) = record["bundles"]
    assert set(found["samples"]) == {start.NOTHING, start.KEPT}
    assert found["kept_bytes"] > 0
    for (sample,) in found["samples"].values():
        assert sample["load_cpu_s"] > 0
        assert sample["first_token_s"] > 0
        assert 0 < sample["own_bytes"] < sample["peak_bytes"]
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert f"| {tiny_bundle.name} |" in text
    assert "old" not in text


def test_the_better_way_is_held_against_the_bound() -> None:
    def sample(peak_mb: float) -> dict[str, float]:
        return {"peak_bytes": peak_mb * 1e6}

    samples = {start.NOTHING: [sample(400)], start.KEPT: [sample(280), sample(300), sample(900)]}
    (check,) = start._checks([{"bundle": "b", "weights_bytes": 100e6, "samples": samples}])
    assert (check.value, check.maximum, check.passed) == (300.0, 240.0, False)
