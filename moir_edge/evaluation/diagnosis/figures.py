"""From the answers of one source to its scores, shares and perceptual scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moir_edge.data.answers import Answer
from moir_edge.data.degradations import Degradation
from moir_edge.evaluation.diagnosis.perceptual import (
    FULL,
    IMAGE_PERMUTED,
    TEXT_PERMUTED,
    alone,
    perceptual_scores,
)
from moir_edge.evaluation.diagnosis.plan import IMAGE_BLANK, TEXT_BLANK, Plan
from moir_edge.evaluation.diagnosis.schema import (
    CLEAN,
    ConditionFigures,
    Perceptual,
    Shares,
)
from moir_edge.evaluation.diagnosis.settings import DiagnoseSettings
from moir_edge.evaluation.diagnosis.shares import (
    BOTH,
    IMAGE_ONLY,
    NEITHER,
    TEXT_ONLY,
    modality_shares,
)
from moir_edge.evaluation.diagnosis.values import OVERALL, ValueTable, unit_scores
from moir_edge.metrics.scores import Scores, row_scores, task_figures

__all__ = ["PERCEPTUAL_REQUESTS", "SHAPLEY_REQUESTS", "CandidateFigures"]

SHAPLEY_REQUESTS = {BOTH: CLEAN, IMAGE_ONLY: TEXT_BLANK, TEXT_ONLY: IMAGE_BLANK, NEITHER: NEITHER}
"""Condition of the shares -> the request that answers it."""
PERCEPTUAL_REQUESTS = {FULL: CLEAN, IMAGE_PERMUTED: IMAGE_PERMUTED, TEXT_PERMUTED: TEXT_PERMUTED}
"""Condition of the perceptual scores -> the request that answers it."""


class CandidateFigures:
    """The figures of one source.

    Args:
        plan: What it was asked.
        answers: Name of a request -> its answers, from `answer_plan`.
        settings: Degradations to report, and the seed of the bootstrap.

    Attributes:
        plan: What it was asked.
        units: Name of a request -> score of every data row in [0, 1].
    """

    def __init__(
        self, plan: Plan, answers: Mapping[str, Sequence[Answer]], settings: DiagnoseSettings
    ) -> None:
        self.plan, self._settings = plan, settings
        self._tasks = [row.task for row in plan.rows]
        self._scores = {
            name: self._score(name, own, answers[CLEAN]) for name, own in answers.items()
        }
        self.units = {name: unit_scores(plan.rows, own) for name, own in self._scores.items()}
        self._table = ValueTable(self._tasks, self.units, seed=settings.seed)

    def conditions(self) -> tuple[ConditionFigures, ...]:
        """Return the scores on clean rows and under every degradation that was asked for."""
        degraded = [self._condition(one) for one in self._settings.parsed()]
        clean = self._figures(CLEAN, None)
        return (ConditionFigures(label=CLEAN, **clean), *degraded)

    def shares(self) -> dict[str, Shares]:
        """Return the Shapley shares over all tasks and of each."""
        scores = {name: self.units[request] for name, request in SHAPLEY_REQUESTS.items()}
        table = ValueTable(self._tasks, scores, seed=self._settings.seed)
        return {scope: modality_shares(table, scope) for scope in table.scopes}

    def perceptual(self) -> dict[str, Perceptual]:
        """Return the perceptual scores over all tasks and of each; empty if they were not asked for."""
        if not self._settings.perceptual:
            return {}
        chosen = self.plan.permutable
        tasks = [self._tasks[at] for at in chosen]
        scores = {
            name: [self.units[request][at] for at in chosen]
            for name, request in PERCEPTUAL_REQUESTS.items()
        }
        table = ValueTable(tasks, scores, seed=self._settings.seed)
        measured = {
            scope: perceptual_scores(
                table, scope, len(tasks) if scope == OVERALL else tasks.count(scope)
            )
            for scope in (table.scopes if tasks else ())
        }
        return {scope: measured.get(scope, alone()) for scope in self._table.scopes}

    def _score(self, name: str, answers: Sequence[Answer], clean: Sequence[Answer]) -> Scores:
        """Score a request on all rows, on which CIDEr-D's frequencies depend; rows not asked keep the clean answer."""
        if name not in self.plan.permuted:
            return row_scores(self.plan.rows, answers)
        filled = list(clean)
        for at, answer in zip(self.plan.permutable, answers, strict=True):
            filled[at] = answer
        return row_scores(self.plan.rows, filled)

    def _condition(self, degradation: Degradation) -> ConditionFigures:
        quantity = degradation.kind.quantity
        return ConditionFigures(
            label=degradation.label,
            modality=degradation.kind.modality,
            quantity=quantity.name if quantity else None,
            unit=quantity.unit if quantity else "",
            strength=self.plan.variants[degradation.label].strengths,
            **self._figures(degradation.label, self._scores[CLEAN]),
        )

    def _figures(self, request: str, reference: Scores | None) -> dict[str, object]:
        seed = self._settings.seed
        return {
            "overall": self._table.mean(OVERALL, request),
            "tasks": task_figures(self.plan.rows, self._scores[request], reference, seed=seed),
        }
