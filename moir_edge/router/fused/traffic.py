"""The physical limit of the router: the bytes it has to move, and how long a memory takes to move them.

    bytes = batch · (N + M) · D · 2 · element        every token's row is read once and written once
          + 4 · Σ weights                            2·(D·columns + 2·D·rank + 4·D) float32 numbers, read once
    limit = bytes / bandwidth

The fused kernels read a token's row twice, to score it and to enrich it: which tokens are weak, and what they read, hangs
on the scores of all. Where the tokens fit the GPU's second-level cache the second read does not reach the memory. What one
kernel leaves for the next is small beside a row.

    moved = batch · (N + M) · (D · 3 · element + 2 · 4 · (3·rank + 6)) + 4 · Σ weights
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
) -> Traffic:
    """Return the bytes of one call of a router of direction `both` and merge `add`, whose sequence is its tokens.

    Args:
        image_tokens: N of one sample.
        text_tokens: M of one sample.
        hidden: Width D.
        rank: Rank of the router's projections.
        element_bytes: Of one number of the embeddings: 2 for float16 and bfloat16, 4 for float32.
        batch: Samples.
    """
    tokens = batch * (image_tokens + text_tokens)
    row = hidden * element_bytes
    # Per side: query, key, down and up of (hidden, rank), and the norm's two vectors, the head and the blend.
    weights = 2 * (4 * hidden * rank + 4 * hidden) * _FLOAT_BYTES
    # Written by one kernel and read by the next: three projections of a token, and six numbers about it.
    scratch = 2 * tokens * (3 * rank + 6) * _FLOAT_BYTES
    return Traffic(
        least_bytes=2 * tokens * row + weights, moved_bytes=3 * tokens * row + weights + scratch
    )
