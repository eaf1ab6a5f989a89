"""Gates: what passes, what fails, and that an unmeasured figure never passes."""

from __future__ import annotations

from typing import Any

import pytest

from moir_edge.errors import DataError
from moir_edge.evaluation.parity.gates import BenchBounds, check_bench_gates
from moir_edge.evaluation.parity.schema import (
    BenchCandidate,
    ComponentParity,
    NumericParity,
    SpeedPair,
    Timing,
)
from moir_edge.evaluation.records import RouterOverhead, Samples
from moir_edge.metrics.records import Interval, PairedRatio, TokenAgreement


def _candidate(**fields: Any) -> BenchCandidate:
    known = {"name": "b", "source": "b", "target": "cpu", "precision": "int4", "provider": None}
    return BenchCandidate(**{**known, "engines": (), **fields})


def _parity() -> NumericParity:
    router = ComponentParity(
        component="router",
        precision="fp32",
        prompts=2,
        max_abs_error=0.5,
        cosine=0.999,
        lowest_cosine=0.9,
        vectors=10,
        index_agreement=0.98,
    )
    tokens = TokenAgreement(rows=4, identical=0.75, leading=0.8)
    return NumericParity(components=(router,), tokens=tokens, routing=None)


def _overhead(percent: float) -> RouterOverhead:
    samples = Samples.of([1.0] * 20, "ms")
    interval = Interval(value=percent / 100, low=percent / 100, high=percent / 100)
    return RouterOverhead(on=samples, off=samples, overhead=interval, component_share=None)


def _sentences(candidate: BenchCandidate, pairs: list[SpeedPair], **bounds: float) -> list[str]:
    gates = check_bench_gates([candidate], pairs, BenchBounds(**bounds), compared=["b"], rounds=1)
    return [gate.sentence() for gate in gates]


def test_no_bounds_no_gates() -> None:
    assert _sentences(_candidate(parity=_parity()), []) == []


def test_numbers() -> None:
    candidate = _candidate(parity=_parity())
    assert _sentences(candidate, [], min_cosine=0.9995, max_abs_error=0.5) == [
        "passed: b router max abs error 0.5, bound <= 0.5",
        "FAILED: b router cosine 0.999, bound >= 0.9995",
    ]
    assert _sentences(candidate, [], min_token_agreement=76) == [
        "FAILED: b token agreement 75.00 %, bound >= 76 %"
    ]
    assert _sentences(candidate, [], min_index_agreement=98) == [
        "passed: b router indices, same inputs 98.00 %, bound >= 98 %",
        "FAILED: b router indices, whole chain not measured, bound >= 98 %",
    ]


def test_a_component_that_is_not_finite_fails_every_bound() -> None:
    sound = _parity()
    lost = {"max_abs_error": None, "cosine": None, "lowest_cosine": None, "index_agreement": None}
    router = sound.components[0].model_copy(update=lost)
    candidate = _candidate(parity=sound.model_copy(update={"components": (router,)}))
    bounds = {"max_abs_error": 1e9, "min_cosine": -1.0, "min_index_agreement": 0.0}
    assert _sentences(candidate, [], **bounds) == [
        "FAILED: b router max abs error not finite, bound <= 1e+09",
        "FAILED: b router cosine not finite, bound >= -1",
        "FAILED: b router indices, same inputs not finite, bound >= 0 %",
        "FAILED: b router indices, whole chain not measured, bound >= 0 %",
    ]


def test_a_router_that_got_lost_fails_every_bound_on_it() -> None:
    reason = "not measured: no router, and the reference has one"
    lost = {"components": (), "missing": ("router",), "routing_reason": reason}
    candidate = _candidate(parity=_parity().model_copy(update=lost))
    bounds = {
        "max_router_overhead": 9.0,
        "max_abs_error": 1e9,
        "min_cosine": -1.0,
        "min_index_agreement": 0.0,
    }
    assert _sentences(candidate, [], **bounds) == [
        f"FAILED: b router overhead {reason}, bound <= 9 %",
        f"FAILED: b router max abs error {reason}, bound <= 1e+09",
        f"FAILED: b router cosine {reason}, bound >= -1",
        f"FAILED: b router indices, same inputs {reason}, bound >= 0 %",
        f"FAILED: b router indices, whole chain {reason}, bound >= 0 %",
    ]


def test_answers_that_end_at_once_are_not_fast() -> None:
    ratio = PairedRatio(value=0.5, low=0.5, high=0.5, pairs=50)
    pair = SpeedPair(
        kind="bundle against bundle", candidate="b", baseline="a", ttft=ratio, tpot=None
    )
    samples = Samples.of([1.0], "ms")
    timing = Timing(prompt="8 words", ttft=samples, components={}, tpot=samples)
    baseline = _candidate(name="a", source="a", timings=(timing,))
    gates = check_bench_gates(
        [baseline, _candidate()], [pair], BenchBounds(max_slowdown=5), compared=["b"], rounds=1
    )
    assert [gate.sentence() for gate in gates] == [
        "passed: b TTFT slowdown against a -50.00 % (-50.00 to -50.00), bound <= 5 %",
        "FAILED: b TPOT slowdown against a not measured, bound <= 5 %",
    ]


def test_times() -> None:
    ratio = PairedRatio(value=1.04, low=1.03, high=1.045, pairs=50)
    pair = SpeedPair(
        kind="bundle against bundle", candidate="b", baseline="a", ttft=ratio, tpot=None
    )
    assert _sentences(_candidate(router=_overhead(3)), [pair], max_slowdown=5) == [
        "passed: b TTFT slowdown against a 4.00 % (3.00 to 4.50), bound <= 5 %"
    ]
    assert _sentences(_candidate(router=_overhead(3)), [pair], max_router_overhead=2) == [
        "FAILED: b router overhead 3.00 % (3.00 to 3.00), bound <= 2 %"
    ]
    assert _sentences(_candidate(), [], max_router_overhead=2) == [
        "passed: b router overhead 0.00 %, bound <= 2 %"  # no router, no cost
    ]


def test_times_whose_interval_holds_the_bound_are_undecided() -> None:
    ratio = PairedRatio(value=1.04, low=1.0, high=1.08, pairs=50)
    pair = SpeedPair(
        kind="bundle against bundle", candidate="b", baseline="a", ttft=ratio, tpot=ratio
    )
    # 0.04 to the end, 0.02 to the bound: twice as narrow takes four times the pairs
    assert _sentences(_candidate(router=_overhead(3)), [pair], max_slowdown=6) == [
        "UNDECIDED: b TTFT slowdown against a 4.00 % (0.00 to 8.00), bound <= 6 %; "
        "about 150 more pairs (3 more rounds) would decide",
        "UNDECIDED: b TPOT slowdown against a 4.00 % (0.00 to 8.00), bound <= 6 %; "
        "about 150 more pairs (3 more rounds) would decide",
    ]
    assert _sentences(_candidate(), [pair], max_slowdown=-1)[0].startswith(
        "FAILED: b TTFT slowdown"
    )
    overhead = _overhead(1).model_copy(
        update={"overhead": Interval(value=0.01, low=0.0, high=0.03)}
    )
    assert _sentences(_candidate(router=overhead), [], max_router_overhead=2) == [
        "UNDECIDED: b router overhead 1.00 % (0.00 to 3.00), bound <= 2 %; "
        "about 60 more pairs (3 more rounds) would decide"
    ]


def test_what_this_device_cannot_measure_fails() -> None:
    absent = _candidate(reason="not measured on this device: no GPU")
    pair = SpeedPair(
        kind="engine against ONNX Runtime", candidate="b", baseline="a", ttft=None, tpot=None
    )
    bounds = {
        "max_router_overhead": 2.0,
        "max_slowdown": 2.0,
        "max_abs_error": 1.0,
        "min_cosine": 0.0,
        "min_token_agreement": 0.0,
        "min_index_agreement": 0.0,
    }
    sentences = _sentences(absent, [pair], **bounds)
    assert all(one.startswith("FAILED") and "not measured" in one for one in sentences)
    for figure in (
        "overhead",
        "TTFT slowdown",
        "decoder cosine",
        "vision max abs",
        "token",
        "indices",
    ):
        assert any(figure in one for one in sentences), figure


def test_the_reference_is_not_held_against_itself() -> None:
    gates = check_bench_gates(
        [_candidate()], [], BenchBounds(min_cosine=0.9), compared=[], rounds=1
    )
    assert gates == []


def test_senseless_bounds_are_refused() -> None:
    with pytest.raises(DataError, match="greater than -100"):
        BenchBounds(max_slowdown=-100)
    with pytest.raises(DataError, match="less than or equal to 1"):
        BenchBounds(min_cosine=99)
