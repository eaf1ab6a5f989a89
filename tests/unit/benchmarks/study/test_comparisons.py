"""Paired differences: worked by hand where nothing varies, and against a plain loop where rows and seeds do."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.study.comparisons import claims, difference, mean_score
from benchmarks.study.runs import Run
from benchmarks.study.settings import StudySettings
from moir_edge.errors import DataError

SETTINGS = StudySettings()
TASKS = ("vqa", "statement", "caption") * 40


def _run(arm: str, seed: int, scores: np.ndarray, *, clean: float = 0.9) -> Run:
    rows = tuple(float(score) for score in scores)
    return Run(
        arm=arm, seed=seed, parameters=1, losses=None, scores={}, share_image=0.5, share_text=0.5, mdi={},
        tasks=TASKS[: len(rows)],
        rows={"clean": (clean,) * len(rows), SETTINGS.blur: rows, SETTINGS.dropout: rows},
        seconds=1.0,
    )  # fmt: skip


def _noisy(arm: str, lead: float, seeds: int, *, spread: float = 0.0) -> list[Run]:
    rows = np.random.default_rng(0).random(len(TASKS))
    noise = np.random.default_rng(len(arm))
    return [
        _run(arm, seed, rows + lead + spread * noise.standard_normal()) for seed in range(seeds)
    ]


def test_a_constant_lead_has_no_width() -> None:
    first, second = _noisy("a", 0.03, 3), _noisy("b", 0.01, 2)
    found = difference(first, second, (SETTINGS.blur,))
    assert [found.value, found.low, found.high] == pytest.approx([2.0, 2.0, 2.0])


def test_tasks_count_alike_however_many_rows_they_have() -> None:
    scores = np.array([1.0, 0.0, 0.0, 0.0])
    run = _run("a", 0, scores)
    object.__setattr__(run, "tasks", ("vqa", "statement", "statement", "statement"))
    assert mean_score([run], (SETTINGS.blur,)).value == pytest.approx(50.0)


def test_the_interval_is_that_of_a_plain_bootstrap_over_seeds_and_rows() -> None:
    first, second = _noisy("a", 0.02, 4, spread=0.03), _noisy("bb", 0.0, 3, spread=0.03)
    for at, run in enumerate(second):  # differences that vary by row, too
        flipped = np.array(run.rows[SETTINGS.blur])
        flipped[at::5] = 0.0
        second[at] = _run("bb", at, flipped)
    found = difference(first, second, (SETTINGS.blur,))
    scores = [100 * np.array([run.rows[SETTINGS.blur] for run in runs]) for runs in (first, second)]
    rng = np.random.default_rng(1)
    plain = []
    for _ in range(3000):
        rows = np.concatenate(
            [
                rng.choice(np.flatnonzero(np.array(TASKS) == task), 40)
                for task in dict.fromkeys(TASKS)
            ]
        )
        means = [one[rng.integers(0, len(one), len(one))][:, rows].mean() for one in scores]
        plain.append(means[0] - means[1])
    assert found.value == pytest.approx(scores[0].mean() - scores[1].mean())
    # both are estimates from some thousand draws: their ends differ by a twentieth of the width
    width = np.quantile(plain, 0.975) - np.quantile(plain, 0.025)
    assert found.low == pytest.approx(np.quantile(plain, 0.025), abs=0.08 * width)
    assert found.high == pytest.approx(np.quantile(plain, 0.975), abs=0.08 * width)


def test_claims_ask_for_the_difference_and_for_an_interval_above_zero() -> None:
    base = _noisy("base", 0.0, 1)
    near, far = _noisy("near", 0.005, 3), _noisy("far", -0.02, 3)
    # as far behind on average, but one seed of three is ahead
    loose = [_noisy("loose", lead, 1)[0] for lead in (-0.12, 0.02, 0.03)]
    found = claims(_noisy("router", 0.0, 5), base, [near, far, loose], SETTINGS)
    assert [one.holds for one in found] == [False, True, False, True]
    assert [one.rows for one in found] == [
        ("router", "near"), ("router", "far"), ("router", "loose"), ("router", "base"),
    ]  # fmt: skip
    assert found[2].found.value > 1.0 > 0.0 > found[2].found.low
    worse = [_run("router", 0, np.zeros(len(TASKS)), clean=0.897)]
    assert [one.holds for one in claims(worse, base, [], SETTINGS)] == [False]


def test_other_rows_are_refused() -> None:
    with pytest.raises(
        DataError, match="a and b were measured on different rows; remove the older"
    ):
        difference(_noisy("a", 0, 1), [_run("b", 0, np.zeros(6))], (SETTINGS.blur,))
    with pytest.raises(
        DataError, match="the runs of a were measured on different rows; remove them"
    ):
        mean_score([*_noisy("a", 0, 1), _run("a", 1, np.zeros(6))], (SETTINGS.blur,))
