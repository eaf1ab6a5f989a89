from __future__ import annotations

import pytest
from pydantic import ValidationError

from moir_edge.benchmarks.gates import GateBounds, check_gates
from moir_edge.benchmarks.schema import ComparisonReport


def _failed(report: ComparisonReport, bounds: GateBounds) -> list[str]:
    return [gate.sentence() for gate in check_gates(report.candidates, bounds) if not gate.passed]


def test_no_bounds_no_gates(report: ComparisonReport) -> None:
    assert check_gates(report.candidates, GateBounds()) == []


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
    names = [
        gate.candidate
        for gate in check_gates(report.candidates, GateBounds(max_router_overhead=1))
        if not gate.passed
    ]
    assert names == ["small"]


def test_a_figure_that_was_not_measured_fails(report: ComparisonReport) -> None:
    blind = report.candidates[1].model_copy(update={"recovery": None, "token_agreement": None})
    results = check_gates(
        [report.reference, blind], GateBounds(min_recovery=0, min_token_agreement=0)
    )
    assert [gate.sentence() for gate in results] == [
        "FAILED: plain recovery not measured, bound >= 0 %",
        "FAILED: plain token agreement not measured, bound >= 0 %",
    ]


def test_unknown_and_senseless_bounds_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        GateBounds(min_speed=1)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="less than or equal to 100"):
        GateBounds(min_token_agreement=101)
