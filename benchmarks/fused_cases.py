"""The sizes of prompt on which the fused token router is timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

__all__ = ["CASES", "TARGET_CASE", "Case", "Timed"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One size of prompt."""

    image_tokens: int
    text_tokens: int
    hidden: int

    def __str__(self) -> str:
        return f"N={self.image_tokens} M={self.text_tokens} D={self.hidden}"


TARGET_CASE = Case(image_tokens=1024, text_tokens=64, hidden=2048)
CASES = tuple(
    Case(image_tokens=images, text_tokens=texts, hidden=hidden)
    for hidden, images, texts in product((576, 2048, 4096), (64, 256, 1024, 4096), (16, 64, 512))
)
"""N = 64…4096, M = 16…512, D = 576…4096."""

Timed = Callable[[], float]
"""Makes one call and returns its time in ms."""
