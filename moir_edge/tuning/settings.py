"""Settings of `tune`, validated before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from moir_edge.arguments import check_fields
from moir_edge.data.degradations import parse_degradation
from moir_edge.data.effects import CONTEXT_ABSENT, IMAGE_ABSENT
from moir_edge.errors import DataError, UnsupportedError, closest
from moir_edge.precisions import BF16, FP32
from moir_edge.tuning.balancing.names import check_method

__all__ = ["DTYPES", "PARTS", "TuneSettings"]

PARTS = ("router", "lora", "full")
DTYPES = (FP32, BF16)
LORA_RANK = 8


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """Settings of one run.

    Attributes:
        train: `router` freezes everything else; `lora` trains low-rank adapters on the language model's attention
            and MLP projections too; `full` trains all weights.
        lora_rank: Rank of the adapters, `LORA_RANK` where None; for `lora` only.
        balance_method: One of `BALANCE_METHODS`, or None.
        keep_clean: Weight of KL(base ‖ routed) on the answers of clean rows, in the sum with the answers' loss; None
            without. The base is the model with router and adapters off, so that `full` has none.
        rank_density: Weight of the ranking of image tokens against the same tokens of degraded pictures; None without.
            For a token router whose density is `confidence`.
        steps: Optimiser steps; None for `epochs`.
        epochs: Passes over the training rows; used where `steps` is None.
        learning_rate: Peak rate of AdamW, after a warm-up of 5 % of the steps, falling to zero in a line.
        batch_size: Rows per step.
        seed: Of the order of the rows and of torch.
        early_stop: End after this many evaluations without a lower loss, and keep the best weights; None never.
        checkpoint_every: Steps between two training checkpoints, and between two evaluations.
        dtype: `fp32`, or `bf16` for matrix products in bfloat16 while training (autocast). Weights, optimiser,
            router, MWAM's ratios and evaluations are float32 with either.
        degrade: Degradations of training rows, as `diagnose` reads them, such as ``"blur=3.4px"``; one that is
            named twice comes up twice as often.
        degrade_share: Share of the rows that is degraded, each by one of `degrade`; evaluation rows stay as they are.
        missing_image: Share of the rows that have no image at all, so that their prompts have no image tokens.
        missing_context: Share of the rows that lose their context; those without one stay as they are. `degrade` takes
            its share of the rows that lack nothing.

    Raises:
        UnsupportedError: `train`, `balance_method` or `dtype` is unknown.
        UnsupportedError: A degradation is unknown.
        DataError: A number or a strength is out of range.
    """

    train: str = "router"
    lora_rank: int | None = None
    balance_method: str | None = None
    keep_clean: float | None = None
    rank_density: float | None = None
    steps: int | None = None
    epochs: float = 1.0
    learning_rate: float = 1e-3
    batch_size: int = 8
    seed: int = 0
    early_stop: int | None = None
    checkpoint_every: int = 100
    dtype: str = FP32
    degrade: tuple[str, ...] = ()
    degrade_share: float = 0.5
    missing_image: float = 0.0
    missing_context: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "tune: ")
        if self.train not in PARTS:
            raise UnsupportedError(
                f"unknown part to train {self.train!r}: {closest(self.train, PARTS)}"
            )
        if self.lora_rank is not None and self.train != "lora":
            raise DataError(
                f"tune: lora_rank is for `lora`, but {self.train!r} is trained; leave it out or train `lora`"
            )
        if self.balance_method is not None:
            check_method(self.balance_method)
        if self.dtype not in DTYPES:
            raise UnsupportedError(f"unknown dtype {self.dtype!r}: {closest(self.dtype, DTYPES)}")
        labels = tuple(parse_degradation(text).label for text in self.degrade)
        object.__setattr__(self, "degrade", labels)
        if not 0 < self.degrade_share <= 1:
            raise DataError(
                f"tune: degrade_share is {self.degrade_share:g}; it must be more than 0 and at most 1"
            )
        self._check_missing()
        self._check_keep_clean()
        positive = (
            "lora_rank",
            "steps",
            "epochs",
            "learning_rate",
            "batch_size",
            "early_stop",
            "keep_clean",
            "rank_density",
        )
        for name in (*positive, "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise DataError(f"tune: {name} is {value}; it must be more than 0, and finite")

    def _check_missing(self) -> None:
        for name in ("missing_image", "missing_context"):
            rate = getattr(self, name)
            if not 0 <= rate <= 1:
                raise DataError(f"tune: {name} is {rate:g}; it must be from 0 to 1")
        if self.missing_image + self.missing_context > 1:
            raise DataError(
                f"tune: missing_image {self.missing_image:g} and missing_context {self.missing_context:g} are more than 1 "
                "together; a row lacks one of the two at most"
            )

    def _check_keep_clean(self) -> None:
        if self.keep_clean is None:
            return
        if self.train == "full":
            raise DataError(
                "tune: keep_clean compares with the base's answers, but `full` trains the base's weights too; "
                "train `router` or `lora`, or leave keep_clean out"
            )
        if self.degrade and self.degrade_share == 1:
            raise DataError(
                "tune: keep_clean is for clean rows, but with a degrade_share of 1 no row is clean; "
                "give a smaller share, or leave keep_clean out"
            )
        if self.missing_image == 1:
            raise DataError(
                "tune: keep_clean is for clean rows, but with a missing_image of 1 no row is clean; "
                "give a smaller share, or leave keep_clean out"
            )

    @property
    def rank(self) -> int:
        """Rank of the adapters."""
        return LORA_RANK if self.lora_rank is None else self.lora_rank

    @property
    def missing(self) -> dict[str, float]:
        """Share of the rows that lack something, by the name of that degradation."""
        return {IMAGE_ABSENT: self.missing_image, CONTEXT_ABSENT: self.missing_context}

    def total_steps(self, rows: int) -> int:
        """Return the number of optimiser steps over that many rows."""
        if self.steps is not None:
            return self.steps
        per_epoch = -(-rows // self.batch_size)
        return max(1, round(self.epochs * per_epoch))

    def record(self) -> dict[str, Any]:
        """Return the settings as plain JSON data."""
        return {**asdict(self), "degrade": list(self.degrade)}

    def difference(self, record: dict[str, Any]) -> str | None:
        """Return the first setting that differs from a record, as `name was A, is B`; None if none does."""
        for name, now in self.record().items():
            before = record.get(name)
            if before != now:
                return f"{name} was {before!r:.100}, is {now!r}"
        return None
