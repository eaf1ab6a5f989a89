"""Requests a second over HTTP, in turns with the runtime's own loop."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.common import take_turns
from benchmarks.serve.cases import Case
from benchmarks.serve.load import run_load
from benchmarks.serve.process import ServerProcess
from moir_edge.progress import Progress
from moir_edge.runtime import EdgeModel

__all__ = ["rates"]


def rates(
    server: ServerProcess,
    model: EdgeModel,
    cases: Sequence[Case],
    clients: int,
    rounds: int,
    progress: Progress,
) -> dict[str, list[float]]:
    """Return the requests a second of each round: over ``http`` from many clients, and of the ``runtime`` in a loop.

    Args:
        server: It has the bundle of `model`, with as many threads.
        model: Called in turns with it.
        cases: Requests of a round.
        clients: How many send at a time.
        rounds: Of each, after one that does not count.
        progress: Called as ``progress(stage, done, total)``.
    """
    done = 0

    def http() -> float:
        nonlocal done
        progress("speed", done, rounds + 1)
        done += 1
        return len(cases) / run_load(server, cases, clients).seconds

    def runtime() -> float:
        started = time.perf_counter()
        for case in cases:
            case.single(model)
        return len(cases) / (time.perf_counter() - started)

    return take_turns({"http": http, "runtime": runtime}, rounds=rounds, warm_up=1)
