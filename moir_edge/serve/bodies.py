"""Bodies of requests as JSON, within limits of size, time and number of values."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import Request

from moir_edge.errors import one_line
from moir_edge.limits import REQUEST_VALUES, REQUESTS_BYTES
from moir_edge.serve.errors import ApiError

__all__ = ["Bodies"]

_MARKS = (b",", b"[", b"{", b":")  # as many as values, at least; base64 has none of them


class Bodies:
    """Reads the requests of one server.

    Args:
        most_bytes: Bytes of one request at most.
        seconds: Time in which a client has to send it.
    """

    def __init__(self, *, most_bytes: int, seconds: float) -> None:
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._held = 0  # bytes of the requests that arrive now

    async def json(self, request: Request) -> Any:
        """Return the body of a request.

        Raises:
            ApiError: It is not JSON, too large, too slow, or too much arrives at a time.
        """
        _check_headers(request)
        try:
            body = await asyncio.wait_for(self._read(request), self._seconds)
        except asyncio.TimeoutError:
            raise ApiError(408, f"the request did not arrive in {self._seconds:g} s") from None
        if sum(body.count(mark) for mark in _MARKS) > REQUEST_VALUES:
            raise ApiError(
                413, f"the request has more than {REQUEST_VALUES:,} values; send a smaller one"
            )
        try:
            return json.loads(body, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ApiError(400, f"the body is not JSON: {one_line(error)}") from None

    async def _read(self, request: Request) -> bytearray:
        stated = request.headers.get("content-length", "0")
        if not stated.isdigit() or len(stated) > 18 or int(stated) > self._most_bytes:
            raise self._too_large()
        body = bytearray()
        try:
            async for part in request.stream():
                body += part
                self._held += len(part)
                if len(body) > self._most_bytes:
                    raise self._too_large()
                if self._held > REQUESTS_BYTES:
                    raise ApiError(
                        429, "too much arrives at a time; try again in 1 s", retry_after=1
                    )
        finally:
            self._held -= len(body)
        return body

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"the request has more than {self._most_bytes:,} bytes; send fewer or smaller images",
        )


def _check_headers(request: Request) -> None:
    """Refuse forms, which a web page can send to this machine without asking, and compressed bodies."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            415, f"the content type is {kind[:100] or 'missing'}, expected application/json"
        )
    if request.headers.get("content-encoding", "identity") != "identity":
        raise ApiError(415, "the body is compressed, which is not taken; send it as it is")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
