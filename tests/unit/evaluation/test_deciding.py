"""Passed, failed or undecided, and how many more samples would decide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from moir_edge.evaluation.deciding import Evidence, Figure, gate_result, more_samples
from moir_edge.evaluation.records import GateResult


def _gate(
    low: float, value: float, high: float, bound: float, *, relation: Any = "<=", samples: int = 100
) -> GateResult:
    evidence = Evidence(low, high, samples, "pairs", rounds=10)
    return gate_result("small", Figure("TTFT ratio", value, relation, "", None, evidence), bound)


@pytest.mark.parametrize(
    ("bound", "at_most", "at_least"),
    [
        (0.5, "failed", "passed"),
        (1.0, "undecided", "passed"),  # the low end keeps >= and is the only one to keep <=
        (1.5, "undecided", "undecided"),
        (2.0, "undecided", "undecided"),  # at the value itself
        (3.0, "passed", "undecided"),
        (3.5, "passed", "failed"),
    ],
)
def test_the_interval_decides(bound: float, at_most: str, at_least: str) -> None:
    assert _gate(1.0, 2.0, 3.0, bound).outcome == at_most
    assert _gate(1.0, 2.0, 3.0, bound, relation=">=").outcome == at_least
    assert _gate(1.0, 2.0, 3.0, bound).passed is (at_most == "passed")


def test_an_undecided_gate_says_what_would_decide_it() -> None:
    gate = _gate(1.0, 2.0, 3.0, 2.5)
    # 1 to the end, 0.5 to the bound: four times the pairs, so 300 more, 30 rounds of 10 pairs
    assert (gate.more, gate.more_rounds) == (300, 30)
    assert gate.sentence() == (
        "UNDECIDED: small TTFT ratio 2 (1 to 3), bound <= 2.5; about 300 more pairs (30 more rounds) would decide"
    )
    assert GateResult.model_validate_json(gate.model_dump_json()) == gate
    assert (
        _gate(1.0, 2.0, 3.0, 3.5).sentence() == "passed: small TTFT ratio 2 (1 to 3), bound <= 3.5"
    )
    single = _gate(1.0, 2.0, 3.0, 3.0 - 1e-9)
    assert single.more_text() == "about 1 more pair (1 more round) would decide"


def test_a_value_at_the_bound_is_never_decided_by_waiting() -> None:
    for bound in (2.0, 2.0 + 1e-9):
        gate = _gate(1.0, 2.0, 3.0, bound)
        assert gate.more is None
        assert gate.more_text() == "no number of pairs decides: the value lies at the bound"


def test_fewer_samples_than_an_interval_needs_decide_nothing() -> None:
    alone = _gate(1.0, 1.0, 1.0, 2.0, samples=1)  # one pair: an interval of no width
    assert (alone.outcome, alone.more) == ("undecided", 5)
    assert _gate(1.0, 1.0, 1.0, 2.0, samples=5).outcome == "undecided"
    assert _gate(1.0, 1.0, 1.0, 2.0, samples=6).outcome == "passed"


def test_the_estimate_is_the_number_that_decides() -> None:
    """Draw as many samples as estimated: the end of their interval lies at the bound."""
    random = np.random.default_rng(0)
    draw = lambda count: random.normal(1.0, 0.1, size=count)  # noqa: E731

    def interval(values: Any) -> tuple[float, float]:
        found = stats.bootstrap((values,), np.mean, method="percentile", rng=random, axis=-1)
        return found.confidence_interval

    first = draw(200)
    low, high = interval(first)
    value = float(first.mean())
    bound = value + (high - value) / 2
    more = more_samples(value, Evidence(low, high, 200, "pairs", 1), bound)
    assert more == pytest.approx(600, abs=1)
    low, high = interval(draw(200 + more))
    # half the width of an interval, itself estimated from the sample's spread (5 % at n = 200)
    assert (high - low) / 2 == pytest.approx(bound - value, rel=0.2)
