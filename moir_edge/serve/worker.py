"""One thread that computes for one device, and the requests that wait for it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from moir_edge.runtime import EdgeModel, Generation
from moir_edge.runtime.logprobs import TokenLogprob
from moir_edge.runtime.settings import GenerationSettings
from moir_edge.serve.errors import ApiError, api_error

__all__ = ["Done", "Event", "Failed", "Job", "Piece", "Worker"]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one step added to an answer: text that became certain, and the token's log-probabilities where asked for."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Done:
    """The whole answer; `queue_ms` is how long the request waited for the device."""

    generation: Generation
    queue_ms: float


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Why there is no answer, or not the rest of it."""

    error: ApiError


Event: TypeAlias = "Piece | Done | Failed"


@dataclass(kw_only=True)
class Job:
    """One request on its way.

    Attributes:
        model: The loaded bundle that answers.
        conversation: Turns as the chat template takes them.
        images: Files of images in the order of the turns.
        settings: Of the answer.
        logprobs: Other tokens told with each token's own log-probability; None tells none.
        emit: Gets each event, on the worker's thread.
        deadline: By the clock of `time.monotonic`; the answer ends there.
        cancelled: Set by whoever no longer waits.
        queued: When the job was put in the queue.
    """

    model: EdgeModel
    conversation: list[dict[str, Any]]
    images: Sequence[bytes]
    settings: GenerationSettings
    logprobs: int | None
    emit: Callable[[Event], None]
    deadline: float
    cancelled: threading.Event = field(default_factory=threading.Event)
    queued: float = field(default_factory=time.monotonic)


class Worker:
    """Takes jobs one after the other, in the order in which they came.

    Args:
        most_waiting: Jobs that wait at most, the one that runs not counted.
    """

    def __init__(self, *, most_waiting: int) -> None:
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._most_waiting = most_waiting
        self._lock = threading.Lock()
        self._open = 0  # jobs that wait or run
        self._stopping = False
        self._seconds = 1.0  # of a job, a running mean
        self._thread = threading.Thread(target=self._work, name="moir-edge-device", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs that wait for the device."""
        return max(0, self._open - 1)

    @property
    def busy(self) -> bool:
        """Whether a job runs."""
        return self._open > 0

    @property
    def ready(self) -> bool:
        """Whether jobs are taken."""
        return self._thread.is_alive() and not self._stopping

    def submit(self, job: Job) -> None:
        """Put a job at the end of the queue.

        Raises:
            ApiError: The queue is full, or the server stops.
        """
        with self._lock:
            if self._stopping:
                raise ApiError(503, "the server stops; send the request to another one")
            if self._open > self._most_waiting:
                after = max(1, round(self._seconds * self._open))
                raise ApiError(
                    429,
                    f"{self.waiting} requests wait for the device already, the most is {self._most_waiting}; "
                    f"try again in {after} s",
                    code="queue_full",
                    retry_after=after,
                )
            self._open += 1
        self._jobs.put(job)

    def stop(self, seconds: float) -> None:
        """Take no more jobs, let those that are there end, and wait for them.

        Args:
            seconds: The longest wait; jobs that are left are cancelled then.
        """
        with self._lock:
            self._stopping = True
        self._jobs.put(None)
        self._thread.join(seconds)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            started = time.monotonic()
            try:
                self._answer(job, started)
            except Exception as error:  # a request must not end the thread that serves all others
                job.emit(Failed(error=api_error(error)))
            finally:
                spent = time.monotonic() - started
                with self._lock:
                    self._open -= 1
                    self._seconds += 0.2 * (spent - self._seconds)

    def _answer(self, job: Job, started: float) -> None:
        if job.cancelled.is_set():
            return
        self._check_time(job)
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
            self._check_time(job)
        queue_ms = (started - job.queued) * 1000
        job.emit(Done(generation=run.result, queue_ms=queue_ms))

    def _check_time(self, job: Job) -> None:
        if time.monotonic() > job.deadline:
            raise ApiError(
                504,
                "the answer took longer than --timeout allows; ask for fewer tokens or try again",
            )
