"""Worker of one candidate: loads the candidate, then obeys commands from a socket."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from moir_edge.data.rows import Row
from moir_edge.errors import MoirEdgeError, UnsupportedError
from moir_edge.evaluation.candidates import (
    Candidate,
    CandidateSpec,
    ComponentCandidate,
    Loaded,
    Reply,
    load_candidate,
)
from moir_edge.exhaustion import exhaustion

__all__ = ["CLOSE", "main", "serve"]

CLOSE = "close"
_LIBRARIES = {"bundle": ("onnxruntime",), "checkpoint": ("torch", "transformers")}


def serve(connection: Connection, load: Callable[[CandidateSpec], Candidate]) -> None:
    """Load what the first message names, then obey until `CLOSE` or until the parent is gone.

    Args:
        connection: Delivers (spec, rows) first, then (command, arguments) pairs.
        load: Loads the candidate.
    """
    spec, rows = connection.recv()
    worker = _Worker(rows)
    connection.send(_attempt(worker.load, spec=spec, load=load))
    while worker.ready:
        try:
            command, arguments = connection.recv()
        except EOFError:
            return
        if command == CLOSE:
            return
        connection.send(_attempt(getattr(worker, command), **arguments))


def main() -> None:
    """Serve the socket whose file descriptor is the first argument of the process."""
    serve(Connection(int(sys.argv[1])), load_candidate)


class _Worker:
    """The commands; rows are named by their index to keep messages small."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self._candidate: Candidate | None = None

    @property
    def ready(self) -> bool:
        return self._candidate is not None

    def load(self, spec: CandidateSpec, load: Callable[[CandidateSpec], Candidate]) -> Loaded:
        _import_libraries(spec)
        before = self.peak_memory()
        start = time.perf_counter()
        self._candidate = load(spec)
        return Loaded(self._candidate.facts, time.perf_counter() - start, before)

    def answer(self, indices: Sequence[int]) -> Any:
        return self._loaded().answer([self._rows[index] for index in indices])

    def timed(self, index: int, router: bool, max_new_tokens: int) -> Any:
        return self._loaded().timed(self._rows[index], router=router, max_new_tokens=max_new_tokens)

    def route(self, indices: Sequence[int]) -> Any:
        return self._loaded().route([self._rows[index] for index in indices])

    def components(self, index: int, feed: Any, steps: int) -> Any:
        candidate = self._loaded()
        if not isinstance(candidate, ComponentCandidate):
            raise UnsupportedError("components are compared between bundles; export the checkpoint")
        return candidate.components(self._rows[index], feed, steps)

    def peak_memory(self) -> int:
        from moir_edge.runtime.timing import peak_memory_bytes

        return peak_memory_bytes()

    def _loaded(self) -> Candidate:
        if self._candidate is None:
            raise RuntimeError("a command came before the candidate was loaded")
        return self._candidate


def _import_libraries(spec: CandidateSpec) -> None:
    """Import the backend before memory is first read, so that libraries and weights are told apart."""
    for name in _LIBRARIES[spec.kind]:
        try:
            import_module(name)
        except ImportError:
            return  # loading reports it with its remedy


def _attempt(work: Callable[..., Any], **arguments: Any) -> Reply:
    try:
        return Reply(value=work(**arguments))
    except Exception as error:
        if (ran_out := exhaustion(error)) is not None:
            return Reply(ran_out=ran_out)
        if isinstance(error, MoirEdgeError):
            return Reply(error=(type(error).__name__, str(error)))
        return Reply(traceback=traceback.format_exc())
