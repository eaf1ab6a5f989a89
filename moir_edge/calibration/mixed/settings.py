"""Settings of sensitivity and of a mix, validated before any long work."""

from __future__ import annotations

from dataclasses import dataclass

from moir_edge.arguments import check_fields
from moir_edge.errors import DataError

__all__ = ["MixSettings"]


@dataclass(frozen=True, kw_only=True)
class MixSettings:
    """Settings of the sensitivity measurement and of the choice of a mix.

    Attributes:
        target_recovery: Raise as few layers as reach this share of the float model's score, in %; None measures only.
        sensitivity_rows: Rows, the first that calibrate, on which each layer is tried.
        answer_tokens: Tokens of each row's answer that are looked at, at most.
        held_out_rows: Rows, those after the ones that calibrate, on which recovery is measured, at most.
        max_new_tokens: Longest answer to them.

    Raises:
        DataError: A number is out of range.
    """

    target_recovery: float | None = None
    sensitivity_rows: int = 16
    answer_tokens: int = 8
    held_out_rows: int = 512
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        check_fields(self)
        target = self.target_recovery
        if target is not None and not 0 < target <= 100:
            raise DataError(
                f"target recovery is {target:g}; expected more than 0 and at most 100 %"
            )
        for name in ("sensitivity_rows", "answer_tokens", "held_out_rows", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}; expected at least 1")
