"""The gates of `compare` and `bench`: bounds that a report must keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moir_edge.cli.groups import Flags, values_of

if TYPE_CHECKING:
    from moir_edge.evaluation import BenchBounds, GateBounds

__all__ = ["BenchGates", "CompareGates"]

_MaxRouterOverhead = Annotated[
    float | None, typer.Option(help="Gate: largest TTFT that the router may add, in %.")
]
_MinTokenAgreement = Annotated[
    float | None,
    typer.Option(min=0, max=100, help="Gate: smallest share of identical answers, in %."),
]


@dataclass(frozen=True, kw_only=True)
class CompareGates(Flags):
    """The gates of `compare`, named as the fields of `GateBounds` are."""

    argument: str = "bounds"
    min_recovery: Annotated[
        float | None, typer.Option(min=0, help="Gate: smallest mean recovery of tasks, in %.")
    ] = None
    min_task_recovery: Annotated[
        float | None, typer.Option(min=0, help="Gate: smallest recovery of a task, in %.")
    ] = None
    max_router_overhead: _MaxRouterOverhead = None
    max_ttft_ratio: Annotated[
        float | None, typer.Option(min=0, help="Gate: largest ratio of TTFT to the reference's.")
    ] = None
    min_token_agreement: _MinTokenAgreement = None
    gate_on: Annotated[
        Literal["mean", "low"],
        typer.Option(
            help="Figure that --min-recovery and --min-task-recovery check: the mean, or the low end "
            "of its 95 % interval."
        ),
    ] = "mean"

    def bounds(self) -> GateBounds:
        """Return the bounds."""
        from moir_edge.evaluation import GateBounds

        return GateBounds(**values_of(self))


@dataclass(frozen=True, kw_only=True)
class BenchGates(Flags):
    """The gates of `bench`, named as the fields of `BenchBounds` are."""

    argument: str = "bounds"
    max_router_overhead: _MaxRouterOverhead = None
    max_slowdown: Annotated[
        float | None,
        typer.Option(
            help="Gate: largest increase of TTFT and TPOT over the baseline, in %; a negative value "
            "demands a speed-up."
        ),
    ] = None
    max_abs_error: Annotated[
        float | None, typer.Option(min=0, help="Gate: largest absolute error of any component.")
    ] = None
    min_cosine: Annotated[
        float | None,
        typer.Option(min=-1, max=1, help="Gate: smallest mean cosine of each component."),
    ] = None
    min_token_agreement: _MinTokenAgreement = None
    min_index_agreement: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Gate: smallest share of equal router sources, in %."),
    ] = None

    def bounds(self) -> BenchBounds:
        """Return the bounds."""
        from moir_edge.evaluation import BenchBounds

        return BenchBounds(**values_of(self))
