"""Settings of `compare`."""

from __future__ import annotations

from dataclasses import dataclass

from moir_edge.arguments import check_fields
from moir_edge.evaluation.settings import check_providers, check_pruning, require_at_least
from moir_edge.runtime.pruning import DENSITY

__all__ = ["CompareSettings"]


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Settings of a comparison, validated before anything is loaded.

    Attributes:
        limit: Use the first rows of the data only; None for all.
        latency_rows: Rows that are timed, spread over the tasks.
        latency_repeats: Rounds over those rows.
        warm_up_rows: Rows answered and thrown away before the first round.
        routing_rows: Rows whose routing maps are compared.
        batch_size: Rows per batch when all rows are answered.
        max_new_tokens: Longest answer, in tokens.
        threads: Threads of one operation; None takes every core of this process.
        seed: Seed of the bootstrap.
        allow_other: Take candidates that are different models; the report says so at the top.
        providers: What runs the bundles besides the reference, by the runtime's names: each bundle on each of them. The
            reference may then be among the bundles. None takes the runtime's own choice, which the reference always takes.
        prune_image_tokens: Shares of the image tokens that the bundles besides the reference drop: each bundle with each
            share. The reference may then be among the bundles, and drops none.
        prune_by: How those tokens are chosen, as in `moir_edge.load`.

    Raises:
        DataError: A number is out of range, or a provider or share is named twice.
        UnsupportedError: An unknown provider or selector.
    """

    limit: int | None = None
    latency_rows: int = 30
    latency_repeats: int = 3
    warm_up_rows: int = 3
    routing_rows: int = 200
    batch_size: int = 32
    max_new_tokens: int = 64
    threads: int | None = None
    seed: int = 0
    allow_other: bool = False
    providers: tuple[str, ...] = ()
    prune_image_tokens: tuple[float, ...] = ()
    prune_by: str = DENSITY

    def __post_init__(self) -> None:
        check_fields(self)
        numbers = (
            "batch_size",
            "max_new_tokens",
            "latency_rows",
            "latency_repeats",
            "routing_rows",
        )
        require_at_least(self, 1, (*numbers, "limit", "threads"))
        check_providers(self.providers)
        check_pruning(self.prune_image_tokens, self.prune_by)
