from __future__ import annotations

import pytest

from moir_edge.evaluation.comparison.schema import ComparisonReport
from moir_edge.evaluation.records import Samples
from moir_edge.evaluation.report.text import bytes_text, headline, interval_text, milliseconds
from moir_edge.metrics.records import Interval


def test_spelling_of_figures() -> None:
    assert [bytes_text(count) for count in (10_300_000, 2_500_000_000)] == ["10.3 MB", "2.50 GB"]
    assert [milliseconds(ms) for ms in (0.123, 12.34, 743.2)] == ["0.12 ms", "12.3 ms", "743 ms"]
    assert interval_text(Interval(value=0.9994, low=0.98, high=1.0021)) == "99.9 % (98.0–100.2)"
    assert interval_text(None) == "–"


@pytest.mark.parametrize(
    ("ttft_ms", "speed"), [(5, "2.0× faster"), (10.2, "equally fast"), (30, "3.0× slower")]
)
def test_headline(report: ComparisonReport, ttft_ms: float, speed: str) -> None:
    reference = report.reference.model_copy(update={"ttft": Samples.of([10], "ms")})
    small = report.candidates[2].model_copy(update={"ttft": Samples.of([ttft_ms], "ms")})
    assert headline(small, reference) == (
        f"Keeps 91.7 % of the reference's score at 25 % of its weight bytes; first token {speed}."
    )
    blind = small.model_copy(update={"recovery": None})
    assert headline(blind, reference).startswith("Scores were not compared")
