from __future__ import annotations

import pytest

from moir_edge.data.answers import Answer
from moir_edge.evaluation.candidates import TimedAnswer
from moir_edge.evaluation.comparison.figures import router_overhead
from moir_edge.evaluation.comparison.schema import ComparisonReport
from moir_edge.evaluation.measure import OverheadPairs
from moir_edge.evaluation.records import Samples


def _timed(ttft_ms: float, router_ms: float = 1.0) -> TimedAnswer:
    return TimedAnswer(
        answer=Answer(text="", token_ids=()),
        ttft_ms=ttft_ms,
        component_ms={"router": router_ms},
        token_ms=(),
    )


def test_percentiles_are_derived_and_samples_kept() -> None:
    samples = Samples.of([3, 1, 2, 4, 5], "ms")
    assert samples.samples == (3, 1, 2, 4, 5)
    assert (samples.median, samples.mean) == (3, 3)
    # linear interpolation at positions 0.4 and 3.6 of the sorted samples
    assert (samples.p10, samples.p90) == pytest.approx((1.4, 4.6), abs=1e-12)
    with pytest.raises(ValueError, match="at least one sample"):
        Samples.of([], "ms")


def test_overhead_is_the_median_of_paired_differences() -> None:
    pairs = OverheadPairs(
        on=[_timed(11), _timed(22), _timed(999)], off=[_timed(10), _timed(20), _timed(30)]
    )
    figures = router_overhead(pairs, seed=0)
    assert figures.overhead.value == pytest.approx(2 / 20, abs=1e-9)  # the outlier has no say
    assert figures.component_share == pytest.approx(1 / 22, abs=1e-9)
    assert figures.on.samples == (11, 22, 999)


def test_report_of_made_up_candidates(report: ComparisonReport) -> None:
    reference, plain, small = report.candidates
    assert report.reference is reference
    assert not report.passed
    assert (reference.recovery, reference.token_agreement, reference.routing) == (None,) * 3
    assert len(reference.ttft.samples) == 12  # 6 rows, 2 rounds
    assert len(reference.rows) == 12
    assert list(reference.components) == ["preprocess", "vision", "router", "prefill"]
    assert plain.routing is None
    assert plain.router_overhead is None
    assert plain.changed == ()
    assert small.tpot is not None
    assert len(small.tpot.samples) == 24  # two further tokens each
    assert [change.id for change in small.changed] == ["vqa-0"]
    assert small.routing is not None
    assert small.routing.best_index_agreement == 0.75  # one of four swapped, see fakes.routing_row


def test_report_survives_json(report: ComparisonReport) -> None:
    assert ComparisonReport.model_validate_json(report.model_dump_json()) == report
