"""Ratios of paired times, and which candidates are paired."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from moir_edge.data.answers import Answer
from moir_edge.evaluation.candidates import TimedAnswer
from moir_edge.evaluation.parity.schema import BenchCandidate
from moir_edge.evaluation.parity.speed import speed_pairs
from moir_edge.metrics.bootstrap import paired_ratio


def _candidate(
    name: str, source: str, *, provider: str | None = None, target: str = "cpu"
) -> BenchCandidate:
    return BenchCandidate(
        name=name,
        source=source,
        target=target,
        precision="fp32",
        provider=provider,
        engines=(),
    )


def _timed(ttft_ms: float, *token_ms: float) -> TimedAnswer:
    answer = Answer(text="", token_ids=())
    return TimedAnswer(answer=answer, ttft_ms=ttft_ms, component_ms={}, token_ms=token_ms)


def test_ratio_is_the_median_of_paired_ratios_with_scipys_interval() -> None:
    random = np.random.default_rng(0)
    base = random.uniform(1, 100, size=40)  # prompts of very different lengths
    times = base * random.normal(1.2, 0.1, size=40)
    ratio = paired_ratio(times.tolist(), base.tolist(), seed=0)
    assert ratio is not None
    assert ratio.value == pytest.approx(np.median(times / base))
    assert ratio.pairs == 40
    peer = stats.bootstrap(
        (times / base,), np.median, n_resamples=4000, method="percentile", rng=random
    ).confidence_interval
    # quantiles of 1,000 resampled medians of this sample vary by about 0.006 from draw to draw
    assert ratio.low == pytest.approx(peer.low, abs=0.02)
    assert ratio.high == pytest.approx(peer.high, abs=0.02)


def test_pairs_without_a_time_on_both_sides_are_left_out() -> None:
    ratio = paired_ratio([2.0, None, 6.0], [1.0, 1.0, 2.0], seed=0)
    assert ratio is not None
    assert (ratio.value, ratio.pairs) == (2.5, 2)
    assert paired_ratio([], [1.0], seed=0) is None
    assert paired_ratio([None], [1.0], seed=0) is None


def test_who_is_compared_with_whom() -> None:
    candidates = [
        _candidate("a", "a"),
        _candidate("a on tensorrt", "a", provider="tensorrt"),
        _candidate("a on cuda", "a", provider="cuda"),
        _candidate("b", "b"),
        _candidate("c", "c", target="rtx-40"),
    ]
    timed = [[_timed(10, 4, 6)], None, [_timed(5)], [_timed(20, 10)], [_timed(30)]]
    pairs = speed_pairs(candidates, timed, seed=0)
    assert [(one.candidate, one.baseline, one.kind) for one in pairs] == [
        ("a on tensorrt", "a", "engine against ONNX Runtime"),
        ("a on cuda", "a", "provider against provider"),
        ("b", "a", "bundle against bundle"),
        ("c", "a", "target against target"),
    ]
    ratios = [(one.ttft and one.ttft.value, one.tpot and one.tpot.value) for one in pairs]
    assert ratios == [(None, None), (0.5, None), (2.0, 2.0), (3.0, None)]
