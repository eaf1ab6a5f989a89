"""The physical limit of the router: the bytes it has to move, and how long a memory takes to move them.

    bytes = batch · (N + M) · D · 2 · element        every token's row is read once and written once
          + 4 · Σ weights                            2·(D·columns + 2·D·rank + 4·D) float32 numbers, read once
    limit = bytes / bandwidth

The fused kernels move more: the sequence is copied first (rows that take no part stay as they are), every token is read
again to be scored, and the weak ones, a share ρ, are read and written again. Where the tokens fit the GPU's second-level
cache these extra reads do not reach the memory.

    moved = batch · D · element · (2·L + (N + M)·(1 + 2·ρ)) + 4 · Σ weights + scratch
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Traffic", "router_traffic"]

_FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes of one call.

    Attributes:
        least_bytes: What any implementation moves: tokens read once and written once, weights read once.
        moved_bytes: What the fused kernels ask for, caches left out of account.
    """

    least_bytes: int
    moved_bytes: int

    def limit_ms(self, bytes_per_second: float) -> float:
        """Return the least time of a call, in ms.

        Args:
            bytes_per_second: Bandwidth of the memory.
        """
        return 1e3 * self.least_bytes / bytes_per_second


def router_traffic(
    *,
    image_tokens: int,
    text_tokens: int,
    hidden: int,
    rank: int,
    element_bytes: int,
    batch: int = 1,
    weak_share: float = 0.5,
) -> Traffic:
    """Return the bytes of one call of a router of direction `both` and merge `add`, whose sequence is its tokens.

    Args:
        image_tokens: N of one sample.
        text_tokens: M of one sample.
        hidden: Width D.
        rank: Rank of the router's projections.
        element_bytes: Of one number of the embeddings: 2 for float16 and bfloat16, 4 for float32.
        batch: Samples.
        weak_share: ρ, the share of the tokens that is enriched.
    """
    tokens = batch * (image_tokens + text_tokens)
    row = hidden * element_bytes
    # Per side: query, key, down and up of (hidden, rank), and the norm's two vectors, the head and the blend.
    weights = 2 * (4 * hidden * rank + 4 * hidden) * _FLOAT_BYTES
    # Written by one kernel and read by the next: three projections of a token, and six numbers about it.
    scratch = 2 * tokens * (3 * rank + 6) * _FLOAT_BYTES
    moved = tokens * row * (3 + 2 * weak_share) + weights + scratch
    return Traffic(least_bytes=2 * tokens * row + weights, moved_bytes=round(moved))
