"""Settings of `diagnose`, validated before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from moir_edge.arguments import check_fields
from moir_edge.data.degradations import DEFAULTS, Degradation, parse_degradation
from moir_edge.errors import DataError
from moir_edge.evaluation.settings import require_at_least

__all__ = ["DiagnoseSettings"]


@dataclass(frozen=True, kw_only=True)
class DiagnoseSettings:
    """Settings of one diagnosis.

    Attributes:
        degradations: Each as `parse_degradation` reads it: ``"blur"``, ``"blur@2"``, ``"blur=3.4px"``,
            ``"word-dropout=0.3"``, ``"image-blank"``, …; stored in that form with the level written out.
        perceptual: Whether rows are answered with permuted images and permuted words too.
        attention_rows: Rows whose attention is taken, spread over the tasks; 0 for none.
        routing_rows: Rows whose routing map is drawn, where the source has a router; 0 for none.
        limit: Use the first rows of the data only; None for all.
        batch_size: Rows per batch.
        max_new_tokens: Longest answer, in tokens.
        threads: Threads of one operation; None takes every core of this process.
        allow_other: Take a bundle beside checkpoints that it was not exported from.
        seed: Of noise, dropout, permutations and bootstrap.

    Raises:
        UnsupportedError: A degradation is unknown.
        DataError: A degradation is given twice or its strength cannot be used, or a number is out of range.
    """

    degradations: tuple[str, ...] = DEFAULTS
    perceptual: bool = True
    attention_rows: int = 60
    routing_rows: int = 3
    limit: int | None = None
    batch_size: int = 32
    max_new_tokens: int = 64
    threads: int | None = None
    allow_other: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        labels = tuple(parse_degradation(text).label for text in self.degradations)
        for label in labels:
            if labels.count(label) > 1:
                raise DataError(f"degradation {label} is given twice; name each one once")
        object.__setattr__(self, "degradations", labels)
        require_at_least(self, 1, ("limit", "batch_size", "max_new_tokens", "threads"))
        require_at_least(self, 0, ("attention_rows", "routing_rows", "seed"))

    def parsed(self) -> tuple[Degradation, ...]:
        """Return the degradations."""
        return tuple(parse_degradation(text) for text in self.degradations)
