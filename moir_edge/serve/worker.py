"""One thread that computes for one device, one that reads ahead for it, and the requests that wait."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

from moir_edge.limits import REQUESTS_BYTES
from moir_edge.serve.answering import answer
from moir_edge.serve.errors import ApiError
from moir_edge.serve.jobs import Job

__all__ = ["Worker"]

_LAST_RUN_SECONDS = 60
"""The longest wait for a run that cannot be cut off: a token, or a part of a long prompt on a slow device."""


class Worker:
    """Takes jobs in the order in which they came: one after the other, or several of a kind together.

    While the device computes, a second thread encodes the prompts and images that have their turn next, and no others: what is
    encoded takes much more memory than the files.

    Args:
        most_waiting: Jobs that wait at most, those that run not counted.
        most_together: Jobs that run as one batch at most.
    """

    def __init__(self, *, most_waiting: int, most_together: int = 1) -> None:
        self._most_waiting = most_waiting
        self._most_together = most_together
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        self._next_changed = threading.Condition(lock)  # of those that have their turn next
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._stopping = False
        self._seconds = 1.0  # of a job, a running mean
        self._thread = threading.Thread(target=self._work, name="moir-edge-device", daemon=True)
        self._ahead = threading.Thread(
            target=self._read_ahead, name="moir-edge-reader", daemon=True
        )
        self._thread.start()
        self._ahead.start()

    @property
    def waiting(self) -> int:
        """Jobs that wait for the device."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Jobs that run."""
        return len(self._running)

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
            most = self._most_waiting + (not self._running)
            if len(self._waiting) >= most:
                raise self._full(f"{len(self._waiting)} requests wait for the device already")
            if (
                self._waiting
                and job.bytes + sum(one.bytes for one in self._waiting) > REQUESTS_BYTES
            ):
                raise self._full("large images of other requests wait for the device already")
            self._waiting.append(job)
            self._changed.notify()
            if self._running and job in self._fitting():
                self._next_changed.notify()

    def cancel(self, job: Job) -> None:
        """Take a job out of the queue, or stop it at its next step; without effect on one that has ended."""
        job.cancelled.set()
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                self._next_changed.notify()

    def stop(self, seconds: float) -> None:
        """Take no more jobs, let those that are there end, and wait for them.

        Args:
            seconds: The longest wait; jobs that are left are cut off then, at their next token.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify()
            self._next_changed.notify()
        self._thread.join(seconds)
        with self._changed:
            left = [*self._waiting, *self._running]
        for job in left:
            self.cancel(job)
        # It sees that between two tokens. Python must not end while the thread is in a run of a graph: its return to an
        # interpreter that is gone aborts the process.
        self._thread.join(_LAST_RUN_SECONDS)
        self._ahead.join(_LAST_RUN_SECONDS)

    def _full(self, reason: str) -> ApiError:
        after = max(1, round(self._seconds * (len(self._waiting) + 1)))
        return ApiError(
            429, f"{reason}; try again in {after} s", code="queue_full", retry_after=after
        )

    def _work(self) -> None:
        while jobs := self._next():
            started = time.monotonic()
            answer(jobs, started)
            with self._changed:
                self._running = []
                self._seconds += 0.2 * ((time.monotonic() - started) / len(jobs) - self._seconds)
            del jobs  # with their images, while it waits for others

    def _next(self) -> list[Job]:
        """Wait for a job and return it with others that may run together with it; nothing at the end."""
        with self._changed:
            while not self._waiting and not self._stopping:
                self._changed.wait()
            self._running = list(self._fitting())
            for job in self._running:
                self._waiting.remove(job)
            # Else the other thread has nothing to do, and would be woken for it.
            if self._waiting or self._stopping:
                self._next_changed.notify()
            return self._running

    def _fitting(self) -> Sequence[Job]:
        """Return the jobs that have their turn next, the first of the queue among them."""
        fitting = [job for job in self._waiting if job.goes_with(self._waiting[0])]
        return fitting[: self._most_together]

    def _read_ahead(self) -> None:
        while self._reads_one():
            pass

    def _reads_one(self) -> bool:
        """Encode the next job that needs it; False at the end. No variable of a caller holds the job while it waits."""
        with self._changed:
            while (job := self._unread()) is None:
                if self._stopping and not self._waiting:
                    return False
                self._next_changed.wait()
        job.encode()
        return True

    def _unread(self) -> Job | None:
        """Return a job that has its turn next and is not encoded; an idle device takes it at once, and encodes it itself."""
        fitting = self._fitting()
        for job in self._waiting:
            if job not in fitting:  # one that went away has changed whose turn is next
                job.forget_encoded()
        unread = (job for job in fitting if not job.is_encoded)
        return next(unread, None) if self._running else None
