"""One job as the event loop sees it: its events, its deadline, and whether its client is still there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from starlette.requests import ClientDisconnect, Request

from moir_edge.serve.errors import ApiError
from moir_edge.serve.jobs import Event, Failed, Job
from moir_edge.serve.worker import Worker

__all__ = ["Following", "emitter"]


def emitter(events: asyncio.Queue[Event]) -> Callable[[Event], None]:
    """Return what hands events from the worker's thread to a queue of the running loop."""
    loop = asyncio.get_running_loop()

    def emit(event: Event) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(events.put_nowait, event)

    return emit


class Following:
    """Follows a job to its end.

    Args:
        worker: Has the job.
        job: Emits into `events`.
        events: Of the job.
        request: Whose client is watched until `unwatch`.
        seconds: Time to the end of the answer.
    """

    def __init__(
        self,
        worker: Worker,
        job: Job,
        events: asyncio.Queue[Event],
        request: Request,
        seconds: float,
    ) -> None:
        self._worker = worker
        self._job = job
        self._events = events
        self._seconds = seconds
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._gone: asyncio.Task[None] | None = asyncio.create_task(_disconnected(request))

    @property
    def left(self) -> float:
        """Seconds that the answer may still take."""
        return self._deadline - asyncio.get_running_loop().time()

    async def next(self, patience: float | None = None) -> Event | None:
        """Return the next event; None if there is none for some time.

        Args:
            patience: That time in seconds; None waits to the deadline.

        Raises:
            ClientDisconnect: The client is watched and went.
        """
        if not self._events.empty():
            return self._events.get_nowait()
        waiting = asyncio.ensure_future(self._events.get())
        seconds = max(0.0, self.left if patience is None else min(patience, self.left))
        watched: set[asyncio.Future[object]] = {waiting, *((self._gone,) if self._gone else ())}  # type: ignore[arg-type]
        try:
            await asyncio.wait(watched, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
        finally:
            waiting.cancel()
        if self._gone is not None and self._gone.done():
            raise ClientDisconnect
        return Failed(error=self._too_long()) if self.left <= 0 else None

    def unwatch(self) -> None:
        """Leave the watch over the client to whoever sends the response."""
        if self._gone is not None:
            self._gone.cancel()
            self._gone = None

    def end(self) -> None:
        """Stop the job if it is not at its end."""
        self.unwatch()
        self._worker.cancel(self._job)

    def _too_long(self) -> ApiError:
        return ApiError(
            504,
            f"the answer takes longer than {self._seconds:g} s, the server's bound; ask for fewer tokens or try again",
        )


async def _disconnected(request: Request) -> None:
    """Return when the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
