"""A server in a thread of the test's process, and a model whose steps the test releases."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import uvicorn

from moir_edge.runtime import Generation
from moir_edge.runtime.timing import Timings
from moir_edge.serve.app import build_app
from moir_edge.serve.connection import Connection
from moir_edge.serve.settings import ServeSettings

SECONDS = 60  # the longest wait for what must come; none of it passes where it comes
TIMINGS = Timings(
    preprocess_ms=1.0,
    vision_ms=0.0,
    embedding_ms=0.0,
    router_ms=0.0,
    prefill_ms=1.0,
    ttft_ms=2.0,
    decode_ms=(1.0,),
)


class Run:
    """A generation whose steps wait for `go` to be released, one word a step.

    Args:
        steps: Of each row; the longest decides how many there are.
    """

    def __init__(self, *steps: int) -> None:
        self._steps = steps or (2,)
        self.go = threading.Semaphore(0)
        self.begun = threading.Event()
        self.taken = 0  # steps that were released
        rows = len(self._steps)
        self.logprobs: list[list[Any]] = [[] for _ in self._steps]
        self.rows = [SimpleNamespace(finish_reason=None) for _ in self._steps]
        self.result = Generation(
            texts=tuple("".join(f"{at} " for at in range(count)) for count in self._steps),
            token_ids=tuple(tuple(range(count)) for count in self._steps),
            finish_reasons=("stop_token",) * rows,
            prompt_tokens=tuple(range(10, 10 + rows)),
            timings=TIMINGS,
            routing=None,
            dropped_image_tokens=(0,) * rows,
        )

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        for at in range(max(self._steps)):
            self.begun.set()
            assert self.go.acquire(timeout=SECONDS), "the test released no step"
            self.taken += 1
            for row, count in zip(self.rows, self._steps, strict=True):
                row.finish_reason = "stop_token" if at + 1 >= count else None
            yield tuple(f"{at} " if at < count else "" for count in self._steps)


class Model:
    """A loaded bundle that answers with the next of some runs.

    Args:
        runs: A run, or what is raised in place of it.

    Attributes:
        encoded: Conversations in the order in which they were encoded.
        asked: Conversations with their images, of each run.
    """

    def __init__(self, *runs: Run | Exception) -> None:
        self._runs = iter(runs)
        self.processor = SimpleNamespace(tokenizer=None)
        self.encoded: list[Any] = []
        self.asked: list[list[Any]] = []

    def encode_row(self, prompt: Any, images: Any) -> Any:
        self.encoded.append(prompt)
        return prompt, images

    def begin_rows(self, rows: Iterable[Any], **_: object) -> Run:
        self.asked.append(list(rows))
        run = next(self._runs)
        if isinstance(run, Exception):
            raise run
        return run


class Running:
    """A server of one model, called `m`."""

    def __init__(self, server: uvicorn.Server, port: int) -> None:
        self.server = server
        self.port = port

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def ask(self, **fields: Any) -> socket.socket:
        """Send a request for a chat completion and return its connection."""
        return self.post(json.dumps(body(**fields)).encode())

    def post(self, content: bytes, **headers: str) -> socket.socket:
        connection = self.connect()
        own = {
            "Host": "localhost",
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            "Connection": "close",
            **headers,
        }
        lines = [f"{name}: {value}" for name, value in own.items()]
        head = "\r\n".join(["POST /v1/chat/completions HTTP/1.1", *lines])
        connection.sendall(head.encode() + b"\r\n\r\n" + content)
        return connection

    def wait_for_stop(self) -> None:
        """Wait until a server that was told to stop takes no more connections."""
        wait_until(lambda: not self._listens())

    def _listens(self) -> bool:
        try:
            self.connect().close()
        except ConnectionRefusedError:
            return False
        return True

    def wait_for(self, *, waiting: int) -> None:
        """Wait until so many requests wait for the device."""
        wait_until(lambda: self._ready()["waiting"] == waiting)

    def _ready(self) -> Any:
        connection = self.connect()
        connection.sendall(
            b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        return json.loads(received(connection)[1])


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for what another thread brings about, however busy the machine is."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"it does not come within {SECONDS} s"
        time.sleep(0.002)


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}


def received_until(connection: socket.socket, mark: bytes, times: int) -> bytes:
    """Return the start of a response, up to where it has shown a mark so many times."""
    data = b""
    while data.count(mark) < times:
        part = connection.recv(65536)
        assert part, f"the response ends after {data!r}"
        data += part
    return data


def received(connection: socket.socket, data: bytes = b"") -> tuple[int, str]:
    """Return status and body of a response up to the connection's end.

    Args:
        data: What of it has come already.
    """
    with connection:
        while part := connection.recv(65536):
            data += part
    head, _, content = data.decode().partition("\r\n\r\n")
    return int(head.split()[1]) if head else 0, content


@contextmanager
def running(model: Model, **settings: Any) -> Iterator[Running]:
    """Serve a model until the block ends, then stop as on a signal."""
    given = ServeSettings(**{"grace": 5, **settings})
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        build_app({"m": model}, given),  # type: ignore[dict-item]
        http=Connection,
        ws="none",
        loop="asyncio",
        log_level="critical",
        timeout_graceful_shutdown=int(given.grace),
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[listening])), daemon=True
    )
    thread.start()
    try:
        yield Running(server, listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(SECONDS)
        assert not thread.is_alive()
