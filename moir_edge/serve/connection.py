"""Connections that cannot be held open for nothing."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

from moir_edge.limits import REQUEST_SECONDS

__all__ = ["Connection"]

_MOST = 512  # connections at a time; the usual bound on a process's open files is 1,024


class _Joined:
    """A transport that sends what is written in one turn of the loop at once.

    uvicorn writes head, body and end of a response one by one. Each call of the system lets the thread that computes
    have the interpreter, and then waits to get it back.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            self._transport.write(b"".join(self._held))
            self._held.clear()


class Connection(H11Protocol):
    """A connection that has to send its request's head in time, and gives way to others before its request is whole.

    uvicorn (0.54) has a timer for the wait between two requests alone: a client that sends nothing, or a head byte by
    byte, would stay for ever.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._timer: asyncio.TimerHandle | None = None
        self._since = 0.0  # when it began to wait for its client

    @property
    def idle(self) -> bool:
        """Whether no request is being served."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _incomplete(self) -> bool:
        """Whether the client has yet to send its request, or the rest of it."""
        return self.idle or self.cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer; of too many connections, close the one that has waited longest for its client."""
        super().connection_made(cast("asyncio.Transport", _Joined(transport, self.loop)))
        self._arm()
        if len(self.connections) > _MOST:
            waiting = [
                one for one in self.connections if isinstance(one, Connection) and one._incomplete
            ]
            min(waiting, key=lambda one: one._since).transport.abort()

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
        self._since = self.loop.time()
        if not self.transport.is_closing():
            self._timer = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
