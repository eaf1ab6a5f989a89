"""`--threads` and `--thread-wait`: the same flags for every command that computes."""

from __future__ import annotations

from typing import Annotated

import typer

from moir_edge.errors import UnsupportedError
from moir_edge.limits import THREADS
from moir_edge.threads import THREAD_WAITS, limited_threads, waiting_threads

__all__ = ["ThreadWaitOption", "Threads"]


def _limit(context: typer.Context, threads: int | None) -> int | None:
    """Keep the command to its threads until it is done."""
    if not context.resilient_parsing:
        context.with_resource(limited_threads(threads))
    return threads


def _wait(context: typer.Context, wait: str | None) -> str | None:
    """Let the command's threads wait as asked until it is done."""
    if context.resilient_parsing or wait is None:
        return wait
    if wait not in THREAD_WAITS:
        raise UnsupportedError(f"--thread-wait {wait!r}: expected {' or '.join(THREAD_WAITS)}")
    context.with_resource(waiting_threads(wait))
    return wait


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

ThreadWaitOption = Annotated[
    str | None,
    typer.Option(
        "--thread-wait",
        callback=_wait,
        help="How idle threads wait: sleep or spin. Spinning is faster where nothing else runs, and slower "
        "elsewhere. By default as OMP_WAIT_POLICY says, else sleep.",
    ),
]
