from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from moir_edge.errors import DataError
from moir_edge.runtime.generation_config import GenerationRules
from moir_edge.runtime.sampling import Sampler
from moir_edge.runtime.settings import GenerationSettings
from moir_edge.runtime.warpers import warpers_for


def _logits(rows: int = 3, vocabulary: int = 50) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (3 * np.random.default_rng(0).standard_normal((rows, vocabulary))).astype(np.float32)


def _warped(logits: np.ndarray[Any, Any], temperature: float, **rules: Any) -> Any:
    warpers = warpers_for(GenerationRules(**rules), temperature)
    rows = []
    for scores in logits:
        for warper in warpers:
            scores = warper(scores)
        rows.append(scores)
    return np.stack(rows)


def _sampler(rows: int = 1, **settings: Any) -> Sampler:
    chosen = GenerationSettings(**settings)
    return Sampler(chosen, chosen.rules({}), [[] for _ in range(rows)])


def _choose(sampler: Sampler, logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return sampler(logits, [[] for _ in logits], 0)


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
    ours = _warped(logits, temperature, top_k=top_k, top_p=top_p)
    np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(scores.numpy()))
    # One float32 division each; both round to nearest.
    np.testing.assert_array_equal(ours, scores.numpy())


@pytest.mark.parametrize(
    ("rules", "warper"),
    [
        ({"min_p": 0.2}, MinPLogitsWarper(0.2)),
        ({"min_p": 1.0}, MinPLogitsWarper(1.0)),
        ({"typical_p": 0.3}, TypicalLogitsWarper(0.3)),
        ({"typical_p": 0.95}, TypicalLogitsWarper(0.95)),
        ({"epsilon_cutoff": 0.03}, EpsilonLogitsWarper(0.03)),
        ({"epsilon_cutoff": 0.9}, EpsilonLogitsWarper(0.9)),
        ({"eta_cutoff": 0.05}, EtaLogitsWarper(0.05)),
        ({"top_h": 0.4}, TopHLogitsWarper(0.4)),
        ({"top_h": 0.9}, TopHLogitsWarper(0.9)),  # at 1 rounding decides over the last token
    ],
)
@pytest.mark.parametrize("first_top_k", [0, 12])
def test_the_other_filters_rule_out_what_transformers_rules_out(
    rules: dict[str, Any], warper: Any, first_top_k: int
) -> None:
    logits = _logits(rows=6, vocabulary=140)
    listed = [TopKLogitsWarper(first_top_k)] if first_top_k else []
    order = [warper, *listed] if "top_h" in rules else [*listed, warper]
    expected = LogitsProcessorList(order)(None, torch.from_numpy(logits))
    ours = _warped(logits, 1.0, top_k=first_top_k, **rules)
    np.testing.assert_array_equal(ours, expected.numpy())
    assert np.isfinite(ours).any(axis=-1).all()


def test_ties_at_the_edge_of_top_k_are_kept() -> None:
    kept = _warped(np.array([[1.0, 3.0, 2.0, 2.0]], np.float32), 1.0, top_k=2)
    assert np.isfinite(kept).tolist() == [[False, True, True, True]]


def test_temperature_zero_is_greedy() -> None:
    logits = _logits()
    chosen = _choose(_sampler(3, top_k=3, top_p=0.5, seed=1), logits)
    np.testing.assert_array_equal(chosen, logits.argmax(axis=-1))
    assert chosen.dtype == np.int64


def test_draws_follow_the_probabilities() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], np.float32))
    sampler = _sampler(temperature=1.0, seed=0)
    draws = np.concatenate([_choose(sampler, logits) for _ in range(4000)])
    shares = np.bincount(draws, minlength=4) / len(draws)
    # Four standard deviations of a share of 0.5 in 4000 draws are 0.032.
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.15, 0.05], atol=0.032)


def test_a_seed_repeats_and_rows_do_not_depend_on_their_neighbours() -> None:
    logits = _logits(rows=3)
    options: dict[str, Any] = {"temperature": 1.5, "seed": 7}
    together = [_choose(_sampler(3, **options), logits) for _ in range(2)]
    np.testing.assert_array_equal(together[0], together[1])
    assert _choose(_sampler(**options), logits[:1])[0] == together[0][0]
    sampler = _sampler(**options)
    assert len({int(_choose(sampler, logits[:1])[0]) for _ in range(30)}) > 1


def test_without_a_seed_runs_differ() -> None:
    flat = np.zeros((1, 10_000), np.float32)
    draws = {int(_choose(_sampler(temperature=1.0), flat)[0]) for _ in range(5)}
    assert len(draws) > 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_refused(bad: float, temperature: float) -> None:
    logits = _logits(rows=2)
    logits[1, 17] = bad
    sampler = _sampler(2, temperature=temperature)
    message = (
        rf"the decoder gave {bad} for token 17 \(row 1, step 3\): 1 of 50 logits are not finite"
    )
    with pytest.raises(DataError, match=message):
        sampler(logits, [[], []], 3)
    # A row that has ended is fed on, and its logits are of no account.
    assert sampler(logits, [[], None], 3).shape == (2,)


def test_rules_that_leave_no_token_are_refused() -> None:
    settings = GenerationSettings()
    sampler = Sampler(settings, settings.rules({}), [[lambda ids, scores: scores - np.inf]])
    with pytest.raises(DataError, match="the generation config excludes every token"):
        _choose(sampler, _logits(rows=1))
