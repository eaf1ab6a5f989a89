"""The study's budget and conditions: one set of figures that every arm shares."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["ABSENT", "IMAGE_BLANK", "TEXT_BLANK", "StudySettings"]

IMAGE_BLANK, TEXT_BLANK = "image-blank", "text-blank"
ABSENT = ("image-absent", "context-absent")
"""Conditions in which a modality, or the context, is gone altogether."""


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """Budget of every arm.

    Attributes:
        seeds: Of the weights at attachment and of the order of the rows.
        deciding_seeds: The same, of the two arms that decide.
        steps: Optimiser steps.
        batch_size: Rows per step.
        learning_rate: Peak rate of AdamW.
        lora_rank: Rank of the adapters in the arms that have them.
        train_rows: Different rows.
        degrade_share: Of the training rows; of these two in eight are blurred, five lose words, one has none.
        train_split: Pictures that the backbone was not trained on, and that the test does not hold.
        test_rows: Rows of the test split, the three tasks in turn.
        validation_rows: Rows on which settings are chosen: other scenes of the same pictures as the training rows.
        blur_sigma_px: "50 % blur" of the backbone: the Gaussian that leaves half of the variance of its pictures.
        drop_probability: Of every word of context and prompt.
        attention_rows: Rows whose attention is taken.
        dtype: Of the matrix products while training.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    deciding_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    steps: int = 200
    batch_size: int = 32
    learning_rate: float = 1e-3
    lora_rank: int = 4
    train_rows: int = 6400
    degrade_share: float = 0.45
    train_split: str = "val"
    test_rows: int = 720
    validation_rows: int = 360
    blur_sigma_px: float = 3.5
    drop_probability: float = 0.3
    attention_rows: int = 60
    dtype: str = "bf16"

    @property
    def blur(self) -> str:
        """The blurred condition, as `diagnose` names it."""
        return f"blur={self.blur_sigma_px:g}px"

    @property
    def dropout(self) -> str:
        """The condition with dropped words, as `diagnose` names it."""
        return f"word-dropout={self.drop_probability:g}"

    @property
    def degrade(self) -> tuple[str, ...]:
        """Degradations of the training rows; one that is named more often comes up more often."""
        return (self.blur,) * 2 + (self.dropout,) * 5 + (TEXT_BLANK,)

    def record(self) -> dict[str, Any]:
        """Return the settings as plain JSON data."""
        lists = {name: list(getattr(self, name)) for name in ("seeds", "deciding_seeds")}
        return {**asdict(self), **lists}
