from __future__ import annotations

import math
from typing import Any

import pytest

from moir_edge.errors import DataError
from moir_edge.evaluation.comparison.gates import GateBounds, check_gates
from moir_edge.evaluation.comparison.schema import ComparisonReport
from moir_edge.evaluation.deciding import Figure, gate_result
from moir_edge.evaluation.records import GateResult
from moir_edge.metrics.records import Interval


def _failed(report: ComparisonReport, bounds: GateBounds) -> list[str]:
    return [
        gate.sentence()
        for gate in check_gates(report.candidates, bounds, rounds=2)
        if not gate.passed
    ]


def test_no_bounds_no_gates(report: ComparisonReport) -> None:
    assert check_gates(report.candidates, GateBounds(), rounds=2) == []


def test_failure_names_candidate_figure_and_bound(report: ComparisonReport) -> None:
    # `small` misses one of four vqa answers: 75 % there, (75 + 100 + 100) / 3 overall
    assert _failed(report, GateBounds(min_recovery=92)) == [
        "FAILED: small recovery 91.67 %, bound >= 92 %"
    ]
    assert _failed(report, GateBounds(min_task_recovery=76)) == [
        "FAILED: small recovery on vqa 75.00 %, bound >= 76 %"
    ]
    assert _failed(report, GateBounds(min_token_agreement=92)) == [
        "FAILED: small token agreement 91.67 %, bound >= 92 %"
    ]
    assert _failed(report, GateBounds(min_recovery=91, max_ttft_ratio=0.5)) == []


def test_overhead_counts_only_where_there_is_a_router(report: ComparisonReport) -> None:
    bounds = GateBounds(max_router_overhead=1)
    sentences = _failed(report, bounds)
    assert sentences[0] == (
        "FAILED: plain router overhead not measured: no router, and the reference has one, bound <= 1 %"
    )
    assert [line.split()[1] for line in sentences] == ["plain", "small"]
    plain = report.candidates[1]  # a reference without a router: nothing got lost
    assert [gate.passed for gate in check_gates([plain, plain], bounds, rounds=2)] == [True]


def test_every_task_of_the_reference_has_its_gate(report: ComparisonReport) -> None:
    reference, plain, _ = report.candidates
    bounds = GateBounds(min_task_recovery=50)
    lacking = plain.model_copy(update={"tasks": {"vqa": plain.tasks["vqa"]}})
    assert [gate.sentence() for gate in check_gates([reference, lacking], bounds, rounds=2)] == [
        "passed: plain recovery on vqa 100.00 %, bound >= 50 %",
        "FAILED: plain recovery on statement not measured, bound >= 50 %",
        "FAILED: plain recovery on caption not measured, bound >= 50 %",
    ]
    unscored = [one.model_copy(update={"tasks": {}}) for one in (reference, plain)]
    assert [gate.sentence() for gate in check_gates(unscored, bounds, rounds=2)] == [
        "FAILED: plain recovery on any task not measured, bound >= 50 %"
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("relation", [">=", "<="])
def test_what_is_not_finite_passes_no_bound(value: float, relation: Any) -> None:
    for bound in (-1e300, 0.0, 1e300):
        gate = gate_result("small", Figure("cosine", value, relation), bound)
        assert gate.sentence() == f"FAILED: small cosine not finite, bound {relation} {bound:g}"
        assert GateResult.model_validate_json(gate.model_dump_json()) == gate


def test_a_record_cannot_hold_what_json_would_turn_into_null() -> None:
    with pytest.raises(DataError, match="should be a finite number"):
        Interval(value=math.nan, low=0.0, high=1.0)
    with pytest.raises(DataError, match="should be a finite number"):
        GateBounds(max_router_overhead=math.nan)


def test_a_figure_that_was_not_measured_fails(report: ComparisonReport) -> None:
    blind = report.candidates[1].model_copy(update={"recovery": None, "token_agreement": None})
    results = check_gates(
        [report.reference, blind], GateBounds(min_recovery=0, min_token_agreement=0), rounds=2
    )
    assert [gate.sentence() for gate in results] == [
        "FAILED: plain recovery not measured, bound >= 0 %",
        "FAILED: plain token agreement not measured, bound >= 0 %",
    ]


def test_unknown_and_senseless_bounds_are_refused() -> None:
    with pytest.raises(DataError, match="Extra inputs"):
        GateBounds(min_speed=1)  # type: ignore[call-arg]
    with pytest.raises(DataError, match="less than or equal to 100"):
        GateBounds(min_token_agreement=101)


def test_recovery_binds_the_mean_or_the_low_end(report: ComparisonReport) -> None:
    recovery = Interval(value=0.992, low=0.984, high=1.0)
    small = report.candidates[2].model_copy(update={"recovery": recovery})
    pair = [report.reference, small]
    by_mean = check_gates(pair, GateBounds(min_recovery=99), rounds=2)
    assert [gate.sentence() for gate in by_mean] == [
        "passed: small recovery 99.20 %, bound >= 99 %"
    ]
    low = GateBounds(min_recovery=99, gate_on="low")
    # 0.8 to the low end, 0.2 to the bound, 12 scored rows: 16 times as many
    assert [gate.sentence() for gate in check_gates(pair, low, rounds=2)] == [
        "UNDECIDED: small recovery 99.20 % (98.40 to 100.00), bound >= 99 %; about 180 more rows would decide"
    ]
    passed = check_gates(pair, GateBounds(min_recovery=98, gate_on="low"), rounds=2)
    assert [gate.outcome for gate in passed] == ["passed"]
    failed = check_gates(pair, GateBounds(min_recovery=101, gate_on="low"), rounds=2)
    assert [gate.outcome for gate in failed] == ["failed"]


def test_the_ratio_of_times_is_that_of_pairs(report: ComparisonReport) -> None:
    small = report.candidates[2]
    assert small.ttft_ratio is not None
    own, base = small.ttft.samples, report.reference.ttft.samples
    ratios = sorted(a / b for a, b in zip(own, base, strict=True))
    assert small.ttft_ratio.value == pytest.approx((ratios[5] + ratios[6]) / 2, rel=1e-12)
    assert small.ttft_ratio.pairs == 12
    assert report.reference.ttft_ratio is None
    bounds = GateBounds(max_ttft_ratio=small.ttft_ratio.value)
    undecided = check_gates([report.reference, small], bounds, rounds=2)
    assert [gate.outcome for gate in undecided] == ["undecided"]
