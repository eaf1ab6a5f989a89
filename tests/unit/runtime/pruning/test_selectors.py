from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moir_edge.errors import DataError, UnsupportedError
from moir_edge.runtime.pruning import (
    ImageTokens,
    Pruning,
    register_selector,
    selector_named,
    selector_names,
)
from moir_edge.runtime.settings import GenerationSettings


def tokens(embeds: Any, density: Any = None, seed: int = 0) -> ImageTokens:
    scores = None if density is None else np.array(density, np.float32)
    return ImageTokens(embeds=np.array(embeds, np.float32), density=scores, seed=seed)


def test_the_densest_stay_in_the_order_of_the_prompt() -> None:
    one = tokens(np.eye(5), [0.9, 0.1, 0.5, 0.5, 0.7])
    found = [selector_named("density")(one, keep).tolist() for keep in (1, 2, 3, 4)]
    assert found == [[0], [0, 4], [0, 2, 4], [0, 2, 3, 4]]  # of two equal ones the first stays


def test_the_longest_stay() -> None:
    one = tokens([[3, 4], [0, 1], [6, 0], [0, -5.5]])
    assert selector_named("norm")(one, 2).tolist() == [2, 3]


def test_draws_are_repeatable_and_differ_by_seed() -> None:
    random = selector_named("random")
    found = [random(tokens(np.ones((40, 2)), seed=seed), 10).tolist() for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert all(sorted(set(one)) == one and len(one) == 10 for one in found)


def test_of_two_alike_one_stays() -> None:
    # The pivot is token 3, of the largest absolute sum. Token 0 points the same way, 1 and 2 are twins across.
    one = tokens([[2, 0, 0], [0, 1, 0], [0, 2, 0], [9, 0, 0], [0, 0, 1]])
    similarity = selector_named("similarity")
    assert similarity(one, 1).tolist() == [3]
    assert similarity(one, 3).tolist() == [1, 3, 4]
    assert similarity(one, 4).tolist() in ([0, 1, 3, 4], [1, 2, 3, 4])
    assert similarity(one, 5).tolist() == [0, 1, 2, 3, 4]


def test_similarity_takes_tokens_of_zeros() -> None:
    assert len(selector_named("similarity")(tokens(np.zeros((6, 3))), 4)) == 4


@pytest.mark.parametrize("name", selector_names())
@pytest.mark.parametrize("keep", [1, 7, 16])
def test_every_selector_keeps_as_many_as_it_is_told(name: str, keep: int) -> None:
    random = np.random.default_rng(keep)
    one = tokens(random.standard_normal((16, 4)), random.random(16))
    found = selector_named(name)(one, keep)
    assert found.dtype == np.int64
    assert len(set(found.tolist())) == keep
    assert found.tolist() == sorted(found.tolist())


def test_names_are_registered_once() -> None:
    with pytest.raises(ValueError, match="the selector 'norm' is registered twice"):
        register_selector("norm")(selector_named("norm"))


@pytest.mark.parametrize(
    ("share", "count", "kept"),
    [(0.25, 64, 48), (0.29, 100, 71), (0.5, 5, 3), (0.99, 2, 1), (0.125, 7, 7), (0.3, 0, 0)],
)
def test_the_share_that_is_dropped_is_rounded_down(share: float, count: int, kept: int) -> None:
    pruning = Pruning(share=share, selector=selector_named("norm"), needs_density=False, seed=0)
    assert pruning.kept(count) == kept


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"prune_image_tokens": 1},
            DataError,
            "prune_image_tokens is 1.0; it must be at least 0 and below 1, as 0.25 for a quarter",
        ),
        (
            {"prune_image_tokens": -0.1},
            DataError,
            "prune_image_tokens is -0.1; it must be at least",
        ),
        ({"prune_image_tokens": float("nan")}, DataError, "prune_image_tokens is nan; it must be"),
        (
            {"prune_image_tokens": "0.5"},
            DataError,
            r"prune_image_tokens is '0.5' \(str\); it must be",
        ),
        ({"prune_image_tokens": True}, DataError, "prune_image_tokens is True"),
        ({"prune_by": 3}, DataError, r"prune_by is 3 \(int\); it must be a string"),
        (
            {"prune_by": "densty"},
            UnsupportedError,
            r"unknown `prune_by=densty`; did you mean 'density'\? \(known: density, norm, random, similarity\)",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        GenerationSettings(**change)
