"""Shapley shares and perceptual scores against cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from moir_edge.data.rows import Row
from moir_edge.evaluation.diagnosis.perceptual import (
    FULL,
    IMAGE_PERMUTED,
    TEXT_PERMUTED,
    alone,
    perceptual_scores,
)
from moir_edge.evaluation.diagnosis.shares import (
    BOTH,
    IMAGE_ONLY,
    NEITHER,
    TEXT_ONLY,
    modality_shares,
)
from moir_edge.evaluation.diagnosis.values import OVERALL, ValueTable, unit_scores


def values(*scores: float) -> dict[str, list[float]]:
    names = (BOTH, IMAGE_ONLY, TEXT_ONLY, NEITHER)
    return {name: [score, score] for name, score in zip(names, scores, strict=True)}


def table(scores: dict[str, list[float]], tasks: list[str] | None = None) -> ValueTable:
    return ValueTable(tasks or ["vqa"] * len(next(iter(scores.values()))), scores, seed=0)


def test_shapley_by_hand() -> None:
    shares = modality_shares(table(values(0.8, 0.5, 0.4, 0.2)), "vqa")
    # φ_image = ½[(.5 − .2) + (.8 − .4)], φ_text = ½[(.4 − .2) + (.8 − .5)]
    assert shares.phi_image.value == pytest.approx(0.35)
    assert shares.phi_text.value == pytest.approx(0.25)
    assert shares.share_image is not None
    assert shares.share_text is not None
    assert shares.dominance is not None
    assert shares.share_image.value == pytest.approx(0.35 / 0.6)
    assert shares.share_text.value == pytest.approx(0.25 / 0.6)
    assert shares.dominance.value == pytest.approx(0.1 / 0.6)
    assert shares.reason is None
    # the rows are alike, so every resample is too
    assert shares.share_image.low == pytest.approx(shares.share_image.high)


@pytest.mark.parametrize(
    ("scores", "share"),
    [((0.9, 0.9, 0.1, 0.1), 1.0), ((0.9, 0.1, 0.9, 0.1), 0.0), ((0.9, 0.0, 0.0, 0.0), 0.5)],
    ids=["the text is no use", "the images are no use", "only both together"],
)
def test_limits(scores: tuple[float, ...], share: float) -> None:
    found = modality_shares(table(values(*scores)), "vqa")
    assert found.share_image is not None
    assert found.dominance is not None
    assert found.share_image.value == pytest.approx(share)
    assert found.dominance.value == pytest.approx(abs(2 * share - 1))


def test_nothing_to_share_out_is_undefined_with_its_reason() -> None:
    shares = modality_shares(table(values(0.5, 0.6, 0.4, 0.5)), "vqa")
    assert shares.share_image is None
    assert shares.share_text is None
    assert shares.dominance is None
    assert shares.phi_image.value == pytest.approx(0.1)
    assert shares.reason == (
        "both modalities together gain 0.0 points over neither; below 1 there is nothing to share out"
    )


def test_overall_is_the_mean_of_the_tasks_not_of_the_rows() -> None:
    scores = {name: [score] * 3 for name, score in zip("ab", (0.0, 1.0), strict=True)}
    scores["b"] = [1.0, 0.0, 0.0]
    found = table(scores, ["caption", "vqa", "vqa"])
    assert found.scopes == (OVERALL, "vqa", "caption")
    assert found.mean(OVERALL, "b").value == 0.5
    assert found.mean("vqa", "b").value == 0.0


def test_intervals_resample_rows_inside_tasks_for_all_conditions_alike() -> None:
    rng = np.random.default_rng(3)
    own = rng.uniform(size=400).tolist()
    found = table({"a": own, "b": [score + 0.25 for score in own]})
    mean = found.mean("vqa", "a")
    # the textbook's interval of a mean; 1000 resamples place a percentile to about 10 % of its width
    half = 1.96 * np.std(own) / 20
    assert mean.low == pytest.approx(np.mean(own) - half, abs=0.15 * half)
    assert mean.high == pytest.approx(np.mean(own) + half, abs=0.15 * half)
    difference = found.defined("vqa", ("b", "a"), lambda means: means[0] - means[1])
    # pairs: a constant difference has no spread
    assert difference.low == pytest.approx(0.25)
    assert difference.high == pytest.approx(0.25)


def test_unit_scores_divide_captions_by_ten() -> None:
    rows = [Row(id=task, task=task, images=(), prompt="?") for task in ("vqa", "caption")]
    assert unit_scores(rows, [0.9, 6.0]) == [0.9, 0.6]
    with pytest.raises(ValueError, match="row caption has no score"):
        unit_scores(rows, [0.9, None])


def test_perceptual_score_by_hand() -> None:
    scores = {
        FULL: [1.0, 1.0, 1.0, 1.0, 0.0],
        IMAGE_PERMUTED: [1.0, 0.0, 0.0, 0.0, 0.0],
        TEXT_PERMUTED: [1.0, 1.0, 1.0, 1.0, 1.0],
    }
    found = perceptual_scores(table(scores), "vqa", 5)
    assert found.rows == 5
    assert found.image is not None
    assert found.text is not None
    assert found.image.value == pytest.approx((0.8 - 0.2) / 0.8)
    assert found.text.value == pytest.approx((0.8 - 1.0) / 0.8)  # foreign words can help, too
    assert found.image.low < found.image.value < found.image.high


def test_perceptual_score_of_a_model_that_scores_nothing() -> None:
    scores = {FULL: [0.0], IMAGE_PERMUTED: [1.0], TEXT_PERMUTED: [0.0]}
    found = perceptual_scores(table(scores), "vqa", 1)
    assert (found.image, found.text) == (None, None)
    assert found.reason == "the full score is 0, so there is no fall to measure"


def test_a_row_alone_says_what_is_missing() -> None:
    assert alone().reason == (
        "permuting needs two rows of one task with equally many images; give more rows"
    )
