"""A request as bytes on a socket, and how soon it is refused."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from benchmarks.serve.process import KEY, ServerProcess

__all__ = ["Attack", "Refused", "send"]

_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One request.

    Attributes:
        name: The kind.
        content: The body.
        method: Of HTTP.
        path: As it stands in the first line.
        headers: In place of the usual ones; None leaves one out.
        raw: Bytes in place of all of it.
    """

    name: str
    content: bytes = b""
    method: str = "POST"
    path: str = "/v1/chat/completions"
    headers: dict[str, str | None] = field(default_factory=dict)
    raw: bytes | None = None

    @property
    def sent(self) -> bytes:
        """All bytes of the request."""
        if self.raw is not None:
            return self.raw
        headers = {
            "Host": "localhost",
            "Authorization": f"Bearer {KEY}",
            "Content-Type": "application/json",
            "Content-Length": str(len(self.content)),
            "Connection": "close",
            **self.headers,
        }
        lines = [f"{self.method} {self.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items() if value is not None]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + self.content


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The answer to a request: its status, and the time that it took."""

    name: str
    status: int
    seconds: float


def send(server: ServerProcess, attack: Attack) -> Refused:
    """Send a request and return how it was answered; status 0 where the connection ended without an answer."""
    address = urlsplit(server.url)
    assert address.hostname is not None
    assert address.port is not None
    with socket.create_connection((address.hostname, address.port), timeout=_SECONDS) as stream:
        started = time.perf_counter()
        with suppress(OSError):  # refused before it was all there; the answer is on its way
            stream.sendall(attack.sent)
        line = _first_line(stream)
        seconds = time.perf_counter() - started
    status = int(line.split()[1]) if line.startswith(b"HTTP/") else 0
    return Refused(name=attack.name, status=status, seconds=seconds)


def _first_line(stream: socket.socket) -> bytes:
    found = b""
    with suppress(OSError):
        while b"\r\n" not in found and (part := stream.recv(4096)):
            found += part
    return found.partition(b"\r\n")[0]
