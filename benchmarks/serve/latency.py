"""Time to the first words of a stream over HTTP, in turns with the runtime's own stream."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

from benchmarks.common import take_turns
from benchmarks.serve.cases import Case
from benchmarks.serve.process import ServerProcess, ask, events
from moir_edge.runtime import EdgeModel

__all__ = ["first_words_ms", "least_difference", "median_difference"]


def first_words_ms(
    server: ServerProcess, model: EdgeModel, case: Case, rounds: int
) -> dict[str, list[float]]:
    """Return the times to the first words, in ms: over ``http``, and of the ``runtime`` in this process.

    Args:
        server: Idle; it has the bundle of `model`, with as many threads.
        model: Called in turns with it.
        case: A stream whose answer has words.
        rounds: Times that are taken of each.
    """
    connection = server.connect()

    def http() -> float:
        started = time.perf_counter()
        response = ask(connection, case.body)
        chunks = events(response)
        next(chunk for chunk in chunks if chunk["choices"][0]["delta"].get("content"))
        spent = time.perf_counter() - started
        for _ in chunks:
            pass
        return spent * 1000

    def runtime() -> float:
        started = time.perf_counter()
        pieces = model.stream(
            case.prompt, list(case.images), max_new_tokens=case.settings["max_tokens"]
        )
        next(piece for piece in pieces if piece)
        spent = time.perf_counter() - started
        for _ in pieces:
            pass
        return spent * 1000

    try:
        return take_turns({"http": http, "runtime": runtime}, rounds=rounds, warm_up=5)
    finally:
        connection.close()


def median_difference(samples: Mapping[str, Sequence[float]]) -> float:
    """Return how much longer it takes over HTTP, in ms: the median of the differences turn by turn."""
    pairs = zip(samples["http"], samples["runtime"], strict=True)
    return statistics.median(ours - own for ours, own in pairs)


def least_difference(samples: Mapping[str, Sequence[float]]) -> float:
    """Return the difference of the first tenths, in ms, where few other processes took the processor meanwhile."""
    ours, own = (statistics.quantiles(samples[name], n=10)[0] for name in ("http", "runtime"))
    return ours - own
