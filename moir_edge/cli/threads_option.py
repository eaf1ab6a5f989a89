"""`--threads`: the same flag for every command that computes."""

from __future__ import annotations

from typing import Annotated

import typer

from moir_edge.limits import THREADS
from moir_edge.threads import limited_threads

__all__ = ["Threads"]


def _limit(context: typer.Context, threads: int | None) -> int | None:
    """Keep the command to its threads until it is done."""
    if not context.resilient_parsing:
        context.with_resource(limited_threads(threads))
    return threads


Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=THREADS,
        callback=_limit,
        help="CPU threads per operation; by default OMP_NUM_THREADS, else one per physical core that "
        "the process may use.",
    ),
]
