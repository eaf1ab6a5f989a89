"""Plan of the questions: the data rows, degraded versions, and versions with one modality permuted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moir_edge.data.answers import Answer
from moir_edge.data.degradations import parse_degradation
from moir_edge.data.rows import Row
from moir_edge.data.variants import ImageStore, Variant, degraded_rows, permuted_rows
from moir_edge.evaluation.candidates import Candidate
from moir_edge.evaluation.diagnosis.perceptual import IMAGE_PERMUTED, TEXT_PERMUTED
from moir_edge.evaluation.diagnosis.schema import CLEAN
from moir_edge.evaluation.diagnosis.settings import DiagnoseSettings
from moir_edge.evaluation.diagnosis.shares import NEITHER
from moir_edge.evaluation.measure import batches
from moir_edge.progress import Progress

__all__ = ["IMAGE_BLANK", "TEXT_BLANK", "Plan", "answer_plan", "make_plan"]

IMAGE_BLANK, TEXT_BLANK = "image-blank", "text-blank"


@dataclass(frozen=True)
class Plan:
    """The requests.

    Attributes:
        rows: The data rows, against whose answers everything is scored.
        variants: Label of a degradation -> degraded rows; both blanks are always there.
        neither: The rows with images and text blanked.
        permutable: Indices of the rows that have another row to be permuted with; empty if that is not wanted.
        permuted: `IMAGE_PERMUTED`, `TEXT_PERMUTED` -> one row per entry of `permutable`.
    """

    rows: Sequence[Row]
    variants: Mapping[str, Variant]
    neither: Variant
    permutable: tuple[int, ...]
    permuted: Mapping[str, Sequence[Row]]

    def requests(self) -> dict[str, Sequence[Row]]:
        """Return every list of rows to be answered, by name."""
        degraded = {label: variant.rows for label, variant in self.variants.items()}
        return {CLEAN: self.rows, **degraded, NEITHER: self.neither.rows, **self.permuted}


def make_plan(rows: Sequence[Row], settings: DiagnoseSettings, store: ImageStore) -> Plan:
    """Degrade and permute the rows.

    Args:
        rows: The data rows.
        settings: What is wanted.
        store: Takes the degraded images; it must outlive the plan.
    """

    def degraded(label: str, of: Sequence[Row]) -> Variant:
        return degraded_rows(of, parse_degradation(label), store, seed=settings.seed)

    labels = dict.fromkeys([*settings.degradations, IMAGE_BLANK, TEXT_BLANK])
    variants = {label: degraded(label, rows) for label in labels}
    permuted = permuted_rows(rows, seed=settings.seed) if settings.perceptual else {}
    return Plan(
        rows=rows,
        variants=variants,
        neither=degraded(TEXT_BLANK, variants[IMAGE_BLANK].rows),
        permutable=tuple(permuted),
        permuted={
            IMAGE_PERMUTED: [images for images, _ in permuted.values()],
            TEXT_PERMUTED: [text for _, text in permuted.values()],
        },
    )


def answer_plan(
    candidate: Candidate, plan: Plan, *, batch_size: int, progress: Progress, name: str
) -> dict[str, list[Answer]]:
    """Answer every request of a plan.

    Args:
        candidate: The model.
        plan: The requests.
        batch_size: Rows per batch.
        progress: Called after every batch.
        name: The model's name, for `progress`.

    Returns:
        Name of the request -> one answer per row of it.
    """
    return {
        request: _answer(candidate, rows, batch_size, progress, f"{name}: {request}")
        for request, rows in plan.requests().items()
    }


def _answer(
    candidate: Candidate, rows: Sequence[Row], batch_size: int, progress: Progress, stage: str
) -> list[Answer]:
    """Answer rows in batches; rows that show the model the same are answered once."""
    keys = [(row.images, row.text) for row in rows]
    distinct = list(dict(zip(keys, rows, strict=True)).values())
    found: dict[object, Answer] = {}
    progress(stage, 0, len(distinct))
    for group in batches(distinct, batch_size):
        chosen = [distinct[at] for at in group]
        for row, answer in zip(chosen, candidate.answer(chosen), strict=True):
            found[row.images, row.text] = answer
        progress(stage, len(found), len(distinct))
    return [found[key] for key in keys]
