"""`moir-edge serve` as a process of its own, and plain HTTP to it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from moir_edge.children import child_environment, module_command
from moir_edge.errors import EnvironmentProblem

__all__ = ["KEY", "ServerProcess", "ask", "events"]

KEY = "key-of-a-measurement"
_SECONDS = 120


class ServerProcess:
    """A running server; a context manager that ends it.

    Args:
        bundle: The folder.
        arguments: Words of the command besides.

    Attributes:
        url: Where it listens.

    Raises:
        EnvironmentProblem: It does not start; the message has the last line it wrote.
    """

    def __init__(self, bundle: Path, *arguments: str) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in `end`)
        self.process = subprocess.Popen(
            module_command(
                "moir_edge", "serve", str(bundle), "--port", "0", "--json", "-q", *arguments
            ),
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=child_environment({"MOIR_EDGE_API_KEY": KEY}),
        )
        assert self.process.stdout is not None
        told = "".join(iter(self._line, "}\n"))
        if self.process.poll() is not None:
            lines = self.errors.strip().splitlines()
            self.end(signal.SIGKILL)
            raise EnvironmentProblem(f"the server did not start: {(lines or ['no message'])[-1]}")
        self.url: str = json.loads(told + "}")["url"]

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
        return line or "}\n"

    def __enter__(self) -> Self:
        """Return the server."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the server."""
        self.end(signal.SIGTERM)

    @property
    def errors(self) -> str:
        """Standard error so far."""
        self._errors.seek(0)
        return self._errors.read()

    @property
    def memory_bytes(self) -> int:
        """Resident memory now."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        return int(lines["VmRSS"].split()[0]) * 1024

    @property
    def cpu_seconds(self) -> float:
        """Processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def connect(self) -> http.client.HTTPConnection:
        """Return a new connection."""
        address = urlsplit(self.url)
        assert address.hostname is not None
        return http.client.HTTPConnection(address.hostname, address.port, timeout=_SECONDS)

    def end(self, number: int) -> int:
        """Send a signal and return the exit code; without effect on one that has ended."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(_SECONDS)
        for stream in (self.process.stdout, self._errors):
            if stream is not None:
                stream.close()
        return code


def ask(connection: http.client.HTTPConnection, body: Any) -> http.client.HTTPResponse:
    """Send a request for a chat completion and return the response, not read yet."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", "/v1/chat/completions", content, headers)
    return connection.getresponse()


def events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a stream as they come; nothing after its end is lost."""
    for line in response:
        if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
            yield json.loads(line[6:])
