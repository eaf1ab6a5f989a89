"""Mutants of every gate of `compare` and `bench`: each one fails, with the line that says why.

`pytest -q -s` on this file prints the table gate | mutant | line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from moir_edge.errors import DataError
from moir_edge.evaluation.candidates import specs_of
from moir_edge.evaluation.comparison.gates import GateBounds, check_gates
from moir_edge.evaluation.comparison.schema import CandidateReport, ComparisonReport
from moir_edge.evaluation.identity import identify_same
from moir_edge.evaluation.parity.gates import BenchBounds, check_bench_gates
from moir_edge.evaluation.parity.schema import (
    BenchCandidate,
    ComponentParity,
    NumericParity,
    SpeedPair,
    Timing,
)
from moir_edge.evaluation.records import GateResult, RouterOverhead, Samples
from moir_edge.metrics.records import Interval, PairedRatio, RoutingAgreement, TokenAgreement

from .fakes import write_manifest

LOST = "not measured: no router, and the reference has one"
ONE = Samples.of([1.0] * 10, "ms")


def _percent(value: float) -> Interval:
    """A percentage whose interval is 5 % of it; NaN, which no record takes by itself, for a mutant."""
    share = value / 100
    ends = {"value": share, "low": 0.95 * share, "high": 1.05 * share}
    return Interval.model_construct(**ends)


def _ratio(value: float) -> PairedRatio:
    ends = {"value": value, "low": 0.95 * value, "high": 1.05 * value, "pairs": 10}
    return PairedRatio.model_construct(**ends)


def _overhead(value: float) -> RouterOverhead:
    return RouterOverhead.model_construct(
        on=ONE, off=ONE, overhead=_percent(value), component_share=None
    )


def _tokens(value: float) -> TokenAgreement:
    return TokenAgreement.model_construct(rows=9, identical=value / 100, leading=0.99)


def _failing(gates: list[GateResult], command: str, mutant: str) -> Iterator[str]:
    for gate in gates:
        assert gate.outcome == "failed", gate.sentence()
        print(f"| {command} {gate.figure} | {mutant} | {gate.sentence()} |")  # noqa: T201
        yield gate.sentence()


# compare: gate -> its bound, the field of the report, a sound value, how a worse one is made, its name in the line, and what
# the line says of a figure of 1.5 times the sound one (or of two thirds, where more is better).
Change = Callable[[CandidateReport, Any], dict[str, Any]]


def _whole(field: str, make: Callable[[float], Any]) -> Change:
    return lambda _, value: {field: None if value is None else make(value)}


def _on_vqa(candidate: CandidateReport, value: float | None) -> dict[str, Any]:
    recovery = None if value is None else _percent(value)
    figures = candidate.tasks["vqa"].model_copy(update={"recovery": recovery})
    return {"tasks": {"vqa": figures}}


COMPARE: dict[str, tuple[float, float, float, Change, str, str]] = {
    "min_recovery": (
        97,
        99,
        66,
        _whole("recovery", _percent),
        "recovery",
        "66.00 %, bound >= 97 %",
    ),
    "min_task_recovery": (97, 99, 66, _on_vqa, "recovery on vqa", "66.00 %, bound >= 97 %"),
    "max_router_overhead": (
        *(2.2, 2, 3),
        _whole("router_overhead", _overhead),
        "router overhead",
        "3.00 % (2.85 to 3.15), bound <= 2.2 %",
    ),
    "max_ttft_ratio": (
        *(0.6, 0.5, 0.75),
        _whole("ttft_ratio", _ratio),
        "TTFT ratio",
        "0.75 (0.7125 to 0.7875), bound <= 0.6",
    ),
    "min_token_agreement": (
        *(90, 96, 64),
        _whole("token_agreement", _tokens),
        "token agreement",
        "64.00 %, bound >= 90 %",
    ),
}


@pytest.mark.parametrize("gate", COMPARE)
def test_compare(gate: str, report: ComparisonReport) -> None:
    bound, sound, worse, change, figure, worse_text = COMPARE[gate]
    reference, _, small = report.candidates
    reference = reference.model_copy(update={"tasks": {"vqa": reference.tasks["vqa"]}})

    def gates(value: float | None, **more: Any) -> list[GateResult]:
        update = {"name": "b", **change(small, value), **more}
        bounds = GateBounds(**{gate: bound})
        return check_gates([reference, small.model_copy(update=update)], bounds, rounds=2)

    assert [one.outcome for one in gates(sound)] == ["passed"]
    end = worse_text[worse_text.index(", bound") :]
    wanted = {
        "scale x 1.5": (worse, worse_text),
        "NaN": (math.nan, f"not finite{end}"),
        "infinite": (math.inf, f"not finite{end}"),
        "figure missing": (None, f"not measured{end}"),
    }
    for mutant, (value, text) in wanted.items():
        assert list(_failing(gates(value), "compare", mutant)) == [f"FAILED: b {figure} {text}"]
    if gate == "max_router_overhead":
        removed = gates(None, has_router=False)
        text = f"FAILED: b {figure} {LOST}{end}"
        assert list(_failing(removed, "compare", "router removed")) == [text]


def test_the_checkpoint_of_another_bundle_is_refused_before_any_gate(tmp_path: Path) -> None:
    folders = [write_manifest(tmp_path / name, weights=name * 64) for name in ("a", "b")]
    with pytest.raises(DataError) as caught:
        identify_same(specs_of(folders, threads=1, max_new_tokens=1, hub=()), allow_other=False)
    line = str(caught.value)
    print(f"| compare, bench: all | swapped bundle | {line} |")  # noqa: T201
    assert line.startswith("b is a different model from a, ")
    assert "a" * 12 in line
    assert "b" * 12 in line
    assert "`allow_other=True`" in line


ROUTER = ComponentParity(
    component="router",
    precision="fp32",
    prompts=2,
    max_abs_error=0.5,
    cosine=0.99,
    lowest_cosine=0.9,
    vectors=10,
    index_agreement=0.98,
)
CHAIN = RoutingAgreement(
    rows=2,
    tokens=9,
    index_agreement=0.96,
    best_index_agreement=0.96,
    routed_agreement=0.99,
    margin=0.1,
    reference_margin=0.1,
    matched_cosine=0.99,
    added_cosine=0.99,
)
NOT_A_NUMBER = {
    "max_abs_error": None,
    "cosine": None,
    "lowest_cosine": None,
    "index_agreement": None,
}
BENCH: dict[str, tuple[float, list[str]]] = {
    "max_router_overhead": (2.2, ["router overhead"]),
    "max_slowdown": (20, ["TTFT slowdown against a", "TPOT slowdown against a"]),
    "max_abs_error": (0.6, ["router max abs error"]),
    "min_cosine": (0.98, ["router cosine"]),
    "min_token_agreement": (90, ["token agreement"]),
    "min_index_agreement": (90, ["router indices, same inputs", "router indices, whole chain"]),
}


def _bench(
    gate: str,
    *,
    overhead: float | None = 2.0,
    slowdown: float | None = 1.0,
    router: ComponentParity | None = ROUTER,
    tokens: float = 96.0,
    chain: RoutingAgreement | None = CHAIN,
    chain_reason: str | None = None,
    measured: bool = True,
) -> list[GateResult]:
    """Check one gate of `bench` on a candidate that is sound where nothing else is said."""
    parity = NumericParity.model_construct(
        components=() if router is None else (router,),
        tokens=_tokens(tokens),
        routing=chain,
        routing_reason=chain_reason,
        missing=("router",) if router is None else (),
    )
    known = {"target": "cpu", "precision": "int4", "provider": None, "engines": ()}
    timing = Timing(prompt="8 words", ttft=ONE, components={}, tpot=ONE)
    candidate = BenchCandidate.model_construct(
        name="b",
        source="b",
        reason=None if measured else "not measured on this device: no GPU",
        router=None if overhead is None else _overhead(overhead),
        parity=parity if measured else None,
        **known,
    )
    ratio = None if slowdown is None else _ratio(slowdown)
    pair = SpeedPair.model_construct(
        kind="bundle against bundle", candidate="b", baseline="a", ttft=ratio, tpot=ratio
    )
    baseline = BenchCandidate.model_construct(name="a", source="a", timings=(timing,), **known)
    found = check_bench_gates(
        [baseline, candidate],
        [pair],
        BenchBounds(**{gate: BENCH[gate][0]}),
        compared=["b"],
        rounds=2,
    )
    return [one for one in found if one.candidate == "b"]


WORSE: dict[str, Any] = {
    "overhead": 3.0,
    "slowdown": 1.5,
    "router": ROUTER.model_copy(
        update={"max_abs_error": 0.75, "cosine": 0.66, "index_agreement": 0.65}
    ),
    "tokens": 64.0,
    "chain": CHAIN.model_copy(update={"index_agreement": 0.64}),
}
NAN: dict[str, Any] = {
    "overhead": math.nan,
    "slowdown": math.nan,
    "router": ROUTER.model_copy(update=NOT_A_NUMBER),
    "tokens": math.nan,
    "chain": None,
    "chain_reason": "not finite in 2 of 2 prompts",
}
REMOVED: dict[str, Any] = {
    "overhead": None, "router": None, "chain": None, "chain_reason": LOST
}  # fmt: skip
MISSING: dict[str, Any] = {"overhead": None, "slowdown": None, "measured": False}


@pytest.mark.parametrize("gate", BENCH)
def test_bench(gate: str) -> None:
    figures = BENCH[gate][1]
    sound = _bench(gate)
    assert [(one.figure, one.outcome) for one in sound] == [(name, "passed") for name in figures]

    def lines(mutant: str, values: dict[str, Any]) -> list[str]:
        return list(_failing(_bench(gate, **values), "bench", mutant))

    for line, name in zip(lines("NaN", NAN), figures, strict=True):
        assert line.startswith(f"FAILED: b {name} not finite")
    worse = lines("scale x 1.5", WORSE)
    assert [
        line.startswith(f"FAILED: b {name} ") for line, name in zip(worse, figures, strict=True)
    ]
    assert not any("not measured" in line or "not finite" in line for line in worse)
    missing = lines("figure missing", MISSING)
    assert missing
    assert all(" not measured, bound" in line for line in missing)
    if "router" in figures[0]:
        removed = lines("router removed", REMOVED)
        assert [line.split(", bound")[0] for line in removed] == [
            f"FAILED: b {name} {LOST}" for name in figures
        ]
