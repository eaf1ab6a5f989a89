"""Share calibration rows out over conditions, so that ranges cover blurred pictures and missing words too."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moir_edge.data.degradations import CLEAN, parse_degradation
from moir_edge.data.rows import Row
from moir_edge.data.variants import ImageStore, degraded_rows
from moir_edge.errors import DataError

__all__ = ["Balance", "parse_balance"]

_SEED = 0


@dataclass(frozen=True)
class Balance:
    """Assignment of rows to conditions: each row to one, every condition equally often.

    Rows are taken in blocks of one per condition, and each block hands the conditions out in an order of its own: a
    file whose tasks or questions alternate does not tie one of them to one condition.

    Attributes:
        conditions: ``clean`` or degradations as `diagnose` labels them; empty leaves every row as it is. One that
            stands there twice comes up twice as often.
    """

    conditions: tuple[str, ...] = ()

    def condition(self, index: int) -> str:
        """Return the condition of the row that `index` usable ones came before."""
        if not self.conditions:
            return CLEAN
        block, place = divmod(index, len(self.conditions))
        order = list(self.conditions)
        random.Random(f"{_SEED}:balance:{block}").shuffle(order)
        return order[place]

    def apply(self, row: Row, condition: str, folder: Path) -> Row:
        """Return a row under a condition.

        Args:
            row: The row.
            condition: As `condition` gives it.
            folder: Takes the changed images.

        Raises:
            DataError: An image cannot be read.
        """
        if condition == CLEAN:
            return row
        degradation = parse_degradation(condition)
        return degraded_rows([row], degradation, ImageStore(folder), seed=_SEED).rows[0]


def parse_balance(conditions: Sequence[str]) -> Balance:
    """Read conditions as `tune --degrade` and `diagnose` write them, and ``clean``.

    Args:
        conditions: Such as ``("clean", "blur=3.5px", "word-dropout")``.

    Raises:
        UnsupportedError: A degradation is unknown.
        DataError: Its strength cannot be used, or a condition is empty.
    """
    if any(not text.strip() for text in conditions):
        raise DataError(
            "balance has an empty condition; separate conditions with commas, such as clean,blur,word-dropout"
        )
    return Balance(
        tuple(
            CLEAN if text.strip() == CLEAN else parse_degradation(text).label for text in conditions
        )
    )
