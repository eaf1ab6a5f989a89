"""One thread that computes for one device, and the requests that wait for it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from moir_edge.limits import REQUESTS_BYTES
from moir_edge.runtime import EdgeModel, Generation
from moir_edge.runtime.logprobs import TokenLogprob
from moir_edge.runtime.settings import GenerationSettings
from moir_edge.serve.errors import ApiError, api_error

__all__ = ["Done", "Event", "Failed", "Job", "Piece", "Worker"]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One step of an answer: text that became certain, and the token's log-probabilities where asked for."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Done:
    """The whole answer; `queue_ms` is how long the request waited for the device."""

    generation: Generation
    queue_ms: float


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The reason for which there is not an answer, or not the rest of it."""

    error: ApiError


Event: TypeAlias = "Piece | Done | Failed"


@dataclass(kw_only=True, eq=False)
class Job:
    """One request on its way.

    Attributes:
        model: The loaded bundle that answers.
        conversation: Turns as the chat template takes them.
        images: Files of images in the order of the turns.
        settings: Of the answer.
        logprobs: Other tokens told with each token's own log-probability; None tells none.
        emit: Gets each event, on the worker's thread.
        cancelled: Set where nobody waits any longer.
        queued: When the job was put in the queue.
    """

    model: EdgeModel
    conversation: list[dict[str, Any]]
    images: Sequence[bytes]
    settings: GenerationSettings
    logprobs: int | None
    emit: Callable[[Event], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
    queued: float = field(default_factory=time.monotonic)

    @property
    def bytes(self) -> int:
        """Bytes of the images."""
        return sum(map(len, self.images))


class Worker:
    """Takes jobs one after the other, in the order in which they came.

    Args:
        most_waiting: Jobs that wait at most, the one that runs not counted.
    """

    def __init__(self, *, most_waiting: int) -> None:
        self._most_waiting = most_waiting
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._stopping = False
        self._seconds = 1.0  # of a job, a running mean
        self._thread = threading.Thread(target=self._work, name="moir-edge-device", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs that wait for the device."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether a job runs."""
        return self._running is not None

    @property
    def ready(self) -> bool:
        """Whether jobs are taken."""
        return self._thread.is_alive() and not self._stopping

    def submit(self, job: Job) -> None:
        """Put a job at the end of the queue.

        Raises:
            ApiError: The queue is full, or the server stops.
        """
        with self._changed:
            if self._stopping:
                raise ApiError(503, "the server stops; send the request to another one")
            # A job that runs leaves its place in the queue; a job that is about to has none of its own.
            most = self._most_waiting + (self._running is None)
            if len(self._waiting) >= most:
                raise self._full(f"{len(self._waiting)} requests wait for the device already")
            if (
                self._waiting
                and job.bytes + sum(one.bytes for one in self._waiting) > REQUESTS_BYTES
            ):
                raise self._full("large images of other requests wait for the device already")
            self._waiting.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Take a job out of the queue, or stop it at its next step; without effect on one that has ended."""
        job.cancelled.set()
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)

    def stop(self, seconds: float) -> None:
        """Take no more jobs, let those that are there end, and wait for them.

        Args:
            seconds: The longest wait; jobs that are left are dropped then.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(seconds)
        with self._changed:
            left = [*self._waiting, *([self._running] if self._running else [])]
        for job in left:
            self.cancel(job)

    def _full(self, reason: str) -> ApiError:
        after = max(1, round(self._seconds * (len(self._waiting) + 1)))
        return ApiError(
            429, f"{reason}; try again in {after} s", code="queue_full", retry_after=after
        )

    def _work(self) -> None:
        while (job := self._next()) is not None:
            started = time.monotonic()
            try:
                self._answer(job, started)
            except Exception as error:  # a request must not end the thread that serves all others
                job.emit(Failed(error=api_error(error)))
            with self._changed:
                self._running = None
                self._seconds += 0.2 * (time.monotonic() - started - self._seconds)

    def _next(self) -> Job | None:
        with self._changed:
            while not self._waiting and not self._stopping:
                self._changed.wait()
            self._running = self._waiting.popleft() if self._waiting else None
            return self._running

    def _answer(self, job: Job, started: float) -> None:
        run = job.model.begin(
            [job.conversation],
            [list(job.images)],
            settings=job.settings,
            logprobs=job.logprobs,
        )
        told = 0
        for step in run:
            if job.cancelled.is_set():
                return
            found = run.logprobs[0]
            if step[0] or len(found) > told:
                job.emit(Piece(text=step[0], logprobs=tuple(found[told:])))
            told = len(found)
        queue_ms = (started - job.queued) * 1000
        job.emit(Done(generation=run.result, queue_ms=queue_ms))
