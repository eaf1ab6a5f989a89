"""Mean task scores in [0, 1] of the same rows under several conditions, and figures derived from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from moir_edge.data.rows import TASKS, Row
from moir_edge.metrics.bootstrap import interval_of, resampled_means
from moir_edge.metrics.records import Interval
from moir_edge.metrics.scores import METRICS, Scores

__all__ = ["OVERALL", "Statistic", "ValueTable", "unit_scores"]

OVERALL = "overall"
"""The scope over all tasks: the unweighted mean of the tasks' means."""

CIDER_SCALE = 10.0

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""(conditions, samples) mean scores -> (samples,) figures, NaN where a figure is undefined."""


def unit_scores(rows: Sequence[Row], scores: Scores) -> list[float]:
    """Return the score of every row in [0, 1]: CIDEr-D of captions over 10, the others as they are.

    Args:
        rows: The rows.
        scores: What `row_scores` gave.

    Raises:
        ValueError: A row has no score.
    """
    values = []
    for row, score in zip(rows, scores, strict=True):
        if score is None:
            raise ValueError(f"row {row.id} has no score")
        values.append(score / CIDER_SCALE if row.task == "caption" else score)
    return values


class ValueTable:
    """Scores of the same rows under several conditions.

    Intervals resample rows inside each task, the same rows for all conditions.

    Args:
        tasks: Task of each row.
        scores: Condition -> one score in [0, 1] per row.
        seed: Seed of the bootstrap.
    """

    def __init__(
        self, tasks: Sequence[str], scores: Mapping[str, Sequence[float]], *, seed: int
    ) -> None:
        self._conditions = tuple(scores)
        matrix: Floats = np.asarray([scores[name] for name in self._conditions], dtype=np.float64)
        self._means: dict[str, Floats] = {}
        self._draws: dict[str, Floats] = {}
        for number, task in enumerate(TASKS):
            member = np.array([one == task for one in tasks], dtype=bool)
            if member.any():
                own = matrix[:, member]
                self._means[task] = own.mean(axis=1)
                self._draws[task] = resampled_means(own, (seed, number))

    @property
    def scopes(self) -> tuple[str, ...]:
        """`OVERALL`, then the tasks that have rows."""
        return (OVERALL, *(task for task in METRICS if task in self._means))

    def figure(
        self, scope: str, conditions: Sequence[str], statistic: Statistic
    ) -> Interval | None:
        """Return a figure with its interval.

        Args:
            scope: `OVERALL` or a task.
            conditions: What the rows of the statistic's input stand for.
            statistic: The figure; resamples on which it is undefined are left out of the interval.

        Returns:
            None where the figure is undefined on all rows.
        """
        at = [self._conditions.index(name) for name in conditions]
        value = float(statistic(self._of(self._means, scope)[at][:, None])[0])
        if np.isnan(value):
            return None
        samples = statistic(self._of(self._draws, scope)[at])
        return interval_of(value, samples[~np.isnan(samples)])

    def defined(self, scope: str, conditions: Sequence[str], statistic: Statistic) -> Interval:
        """Return a figure that no score leaves undefined; see `figure`."""
        found = self.figure(scope, conditions, statistic)
        if found is None:
            raise ValueError(f"the figure of {', '.join(conditions)} is not defined")
        return found

    def mean(self, scope: str, condition: str) -> Interval:
        """Return the mean score under one condition with its interval."""
        return self.defined(scope, [condition], lambda means: means[0])

    def _of(self, by_task: Mapping[str, Floats], scope: str) -> Floats:
        if scope != OVERALL:
            return by_task[scope]
        return np.asarray(np.mean(list(by_task.values()), axis=0))
