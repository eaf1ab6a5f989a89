"""Limits and rights of the server's clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from moir_edge.limits import REQUEST_BYTES, REQUEST_IMAGES, REQUEST_SECONDS
from moir_edge.serve.images import ImageSources

__all__ = ["LOOPBACK", "ServeSettings"]

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Addresses at which this machine alone can connect."""


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Treatment of clients.

    Attributes:
        api_key: The bearer token that every request needs but those for health; None needs none.
        host_names: Names that the header `Host` may have; None takes any. A web page of a stranger can send a browser
            here under a name of its own, and read the answers.
        images: Where images may come from.
        most_waiting: Requests that wait for the device at most.
        most_together: Requests with the same settings that are answered as one batch at most. Rounding may then change
            a token beside the answer of a single run.
        most_images: Images of one request at most.
        most_body_bytes: Bytes of one request at most.
        timeout: Seconds from a request's arrival to the end of its answer.
        body_timeout: Seconds in which a client has to send its head, and then its whole request.
        ping: Seconds between two signs of life in a stream.
        grace: Seconds that running requests get when the server stops.
    """

    api_key: str | None = None
    host_names: Sequence[str] | None = None
    images: ImageSources = field(default_factory=ImageSources)
    most_waiting: int = 16
    most_together: int = 1
    most_images: int = REQUEST_IMAGES
    most_body_bytes: int = REQUEST_BYTES
    timeout: float = 300
    body_timeout: float = REQUEST_SECONDS
    ping: float = 10
    grace: float = 30
