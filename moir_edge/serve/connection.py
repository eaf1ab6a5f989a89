"""Connections that cannot be held open for nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from moir_edge.limits import REQUEST_SECONDS

__all__ = ["Connection"]

_MOST = 512  # connections at a time; the usual bound on a process's open files is 1,024


class Connection(H11Protocol):
    """A connection that has to send its request's head in time, and gives way where there are many.

    uvicorn (0.54) has a timer for the wait between two requests alone: a client that sends nothing, or a head byte by
    byte, would stay for ever.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is being served."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer; close the oldest connection without a request where there are too many."""
        super().connection_made(transport)
        self._arm()
        if len(self.connections) > _MOST:
            idle = [one for one in self.connections if isinstance(one, Connection) and one.idle]
            oldest = min(idle, key=lambda one: one.armed, default=self)
            oldest.transport.abort()

    @property
    def armed(self) -> float:
        """When the timer will end the connection."""
        return self._timer.when() if self._timer is not None else 0.0

    def data_received(self, data: bytes) -> None:
        """Take bytes; a whole head stops the timer."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before and not self.idle:
            self._disarm()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if self.idle:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._disarm()
        super().connection_lost(exc)

    def _arm(self) -> None:
        self._disarm()
        if not self.transport.is_closing():
            self._timer = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
