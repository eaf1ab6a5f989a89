"""The parent's handle on a candidate that runs in a fresh process of its own."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Protocol

import moir_edge.errors
from moir_edge.children import child_command, child_environment
from moir_edge.data.answers import Answer, RoutingRow
from moir_edge.data.rows import Row
from moir_edge.errors import EnvironmentProblem, MoirEdgeError
from moir_edge.evaluation.candidates import CandidateSpec, ComponentRun, Loaded, Reply, TimedAnswer
from moir_edge.evaluation.worker import CLOSE
from moir_edge.exhaustion import end_of_child
from moir_edge.temporary import nameless_file
from moir_edge.threads import wait_policy

__all__ = ["CandidateProcess", "Measured"]

_CLOSE_SECONDS = 10
# What the candidate that ran before still does after its answer (freeing memory, say) shall not count.
_SETTLE_SECONDS = 0.005
_ENTRY = "moir_edge.evaluation.worker:main"


class Measured(Protocol):
    """Interface of a candidate to the measuring code; rows are named by their index."""

    spec: CandidateSpec
    loaded: Loaded

    def answer(self, indices: Sequence[int]) -> list[Answer]:
        """Answer a batch."""

    def timed(self, index: int, *, router: bool, max_new_tokens: int) -> TimedAnswer:
        """Answer one row and time it."""

    def route(self, indices: Sequence[int]) -> list[RoutingRow]:
        """Return the routing maps of a batch."""

    def peak_memory(self) -> int:
        """Return the peak resident memory of the candidate's process so far, in bytes."""


class CandidateProcess:
    """A candidate in its own process, so that its peak memory is its own; use it as a context manager.

    Args:
        spec: What to load.
        rows: The rows that commands refer to by index.

    Raises:
        MoirEdgeError: The candidate cannot be loaded; the message is its own.
        EnvironmentProblem: The process died or failed for a reason nobody foresaw.
    """

    def __init__(self, spec: CandidateSpec, rows: Sequence[Row]) -> None:
        self.spec = spec
        self._log = nameless_file()  # closed with the process
        self._connection, theirs = Pipe()
        self._process = _start(theirs, spec.threads, self._log.fileno())
        theirs.close()
        try:
            self._connection.send((spec, list(rows)))
            self.loaded: Loaded = self._receive()
        except BaseException:
            self.close(at_once=True)
            raise

    def answer(self, indices: Sequence[int]) -> list[Answer]:
        """Answer a batch."""
        answers: list[Answer] = self._call("answer", indices=list(indices))
        return answers

    def timed(self, index: int, *, router: bool, max_new_tokens: int) -> TimedAnswer:
        """Answer one row and time it, in the candidate's process."""
        time.sleep(_SETTLE_SECONDS)
        timed: TimedAnswer = self._call(
            "timed", index=index, router=router, max_new_tokens=max_new_tokens
        )
        return timed

    def route(self, indices: Sequence[int]) -> list[RoutingRow]:
        """Return the routing maps of a batch."""
        maps: list[RoutingRow] = self._call("route", indices=list(indices))
        return maps

    def components(self, index: int, feed: ComponentRun | None, steps: int) -> ComponentRun:
        """Run each component of a bundle once on one row; see `run_components`."""
        done: ComponentRun = self._call("components", index=index, feed=feed, steps=steps)
        return done

    def peak_memory(self) -> int:
        """Return the peak resident memory of the process so far, in bytes."""
        return int(self._call("peak_memory"))

    def close(self, *, at_once: bool = False) -> None:
        """End the process; `at_once`, without waiting for what it computes."""
        if at_once:
            self._process.kill()
        with contextlib.suppress(OSError):  # it may be gone already
            self._connection.send((CLOSE, {}))
        self._connection.close()
        try:
            self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def __enter__(self) -> CandidateProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(at_once=kind is not None)

    def _call(self, command: str, **arguments: Any) -> Any:
        try:
            self._connection.send((command, arguments))
        except OSError as error:
            raise self._death() from error
        return self._receive()

    def _receive(self) -> Any:
        try:
            reply: Reply = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error
        if reply.error is not None:
            kind, message = reply.error
            raise _error_class(kind)(message)
        if reply.ran_out is not None:
            raise EnvironmentProblem(f"measuring {self.spec.name}: {reply.ran_out}")
        if reply.traceback is not None:
            last = reply.traceback.strip().splitlines()[-1]
            raise EnvironmentProblem(
                f"measuring {self.spec.name} failed: {last}"
            ) from RuntimeError(reply.traceback)
        return reply.value

    def _death(self) -> EnvironmentProblem:
        code = self._process.wait()
        self._log.seek(0)
        log = self._log.read().decode(errors="replace")
        ended = end_of_child(code, log, advice="compare fewer candidates at once")
        return EnvironmentProblem(f"the process of {self.spec.name} {ended}")


def _start(connection: Connection, threads: int, log: int) -> subprocess.Popen[bytes]:
    """Start the worker; it shares nothing with this process but the socket and a log of what libraries print."""
    settings = {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        **wait_policy(),  # of torch too
    }
    return subprocess.Popen(
        child_command(_ENTRY, str(connection.fileno())),
        env=child_environment(settings),
        pass_fds=[connection.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,  # Ctrl-C is the parent's to handle; the worker ends when the socket closes
    )


def _error_class(name: str) -> type[MoirEdgeError]:
    found = getattr(moir_edge.errors, name, MoirEdgeError)
    return found if isinstance(found, type) and issubclass(found, MoirEdgeError) else MoirEdgeError
