from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from moir_edge.errors import DataError
from moir_edge.runtime.sampling import GenerationSettings, Sampler, filtered_logits


def _logits(rows: int = 3, vocabulary: int = 50) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (3 * np.random.default_rng(0).standard_normal((rows, vocabulary))).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 7, 500])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.35, 1e-6])
def test_what_is_ruled_out_is_what_transformers_rules_out(
    temperature: float, top_k: int, top_p: float
) -> None:
    logits = _logits()
    scores = TemperatureLogitsWarper(temperature)(None, torch.from_numpy(logits))
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    settings = GenerationSettings(temperature=temperature, top_k=top_k, top_p=top_p)
    ours = filtered_logits(logits, settings)
    np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(scores.numpy()))
    # One float32 division each; both round to nearest.
    np.testing.assert_array_equal(ours, scores.numpy())


def test_ties_at_the_edge_of_top_k_are_kept() -> None:
    settings = GenerationSettings(temperature=1.0, top_k=2)
    kept = filtered_logits(np.array([[1.0, 3.0, 2.0, 2.0]], np.float32), settings)
    assert np.isfinite(kept).tolist() == [[False, True, True, True]]


def test_temperature_zero_is_greedy() -> None:
    logits = _logits()
    chosen = Sampler(GenerationSettings(top_k=3, top_p=0.5, seed=1), 3)(logits)
    np.testing.assert_array_equal(chosen, logits.argmax(axis=-1))
    assert chosen.dtype == np.int64


def test_draws_follow_the_probabilities() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], np.float32))
    sampler = Sampler(GenerationSettings(temperature=1.0, seed=0), 1)
    draws = np.concatenate([sampler(logits) for _ in range(4000)])
    shares = np.bincount(draws, minlength=4) / len(draws)
    # Four standard deviations of a share of 0.5 in 4000 draws are 0.032.
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.15, 0.05], atol=0.032)


def test_a_seed_repeats_and_rows_do_not_depend_on_their_neighbours() -> None:
    logits = _logits(rows=3)
    settings = GenerationSettings(temperature=1.5, seed=7)
    together = [Sampler(settings, 3)(logits) for _ in range(2)]
    np.testing.assert_array_equal(together[0], together[1])
    assert Sampler(settings, 1)(logits[:1])[0] == together[0][0]
    sampler = Sampler(settings, 1)
    assert len({int(sampler(logits[:1])[0]) for _ in range(30)}) > 1


def test_without_a_seed_runs_differ() -> None:
    flat = np.zeros((1, 10_000), np.float32)
    settings = GenerationSettings(temperature=1.0)
    draws = {int(Sampler(settings, 1)(flat)[0]) for _ in range(5)}
    assert len(draws) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"seed": -3}, "seed is -3"),
        ({"stop": ("",)}, "stop is"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        GenerationSettings(**change)
