"""Many clients at once: right answers, memory, and speed beside the runtime's own loop."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.serve.cases import Answer, Case
from benchmarks.serve.process import ServerProcess, ask, events
from moir_edge.errors import EnvironmentProblem

__all__ = ["MEMORY_AT", "Load", "answer_of", "run_load"]

MEMORY_AT = 100
"""Requests after which the memory is taken for the first time."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """Result of one load.

    Attributes:
        seconds: From the first request to the last answer.
        answers: In the order of the cases.
        ids: Identifiers that the server gave.
        memory_bytes: Resident memory after `MEMORY_AT` answers, and at the end.
        cpu_seconds: Of the server.
    """

    seconds: float
    answers: Sequence[Answer]
    ids: Sequence[str]
    memory_bytes: tuple[int, int]
    cpu_seconds: float


def run_load(
    server: ServerProcess,
    cases: Sequence[Case],
    clients: int,
    told: Callable[[int], None] = lambda done: None,
) -> Load:
    """Send all cases from some clients, each over one connection, and return what came.

    Args:
        server: Its queue takes as many requests as there are clients.
        cases: The requests.
        clients: How many send at a time.
        told: Called with the number of answers so far.
    """
    local, lock = threading.local(), threading.Lock()
    done: list[int] = []
    memory: list[int] = []

    def one(case: Case) -> tuple[str, Answer]:
        if not hasattr(local, "connection"):
            local.connection = server.connect()
            connections.append(local.connection)
        answer = answer_of(local.connection, case)
        with lock:
            done.append(1)
            if len(done) == MEMORY_AT:
                memory.append(server.memory_bytes)
            told(len(done))
        return answer

    connections: list[http.client.HTTPConnection] = []
    cpu, started = server.cpu_seconds, time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(one, cases))
    seconds = time.perf_counter() - started
    for connection in connections:
        connection.close()
    last = server.memory_bytes
    return Load(
        seconds=seconds,
        answers=[answer for _, answer in found],
        ids=[name for name, _ in found],
        memory_bytes=(memory[0] if memory else last, last),
        cpu_seconds=server.cpu_seconds - cpu,
    )


def answer_of(connection: http.client.HTTPConnection, case: Case) -> tuple[str, Answer]:
    """Return the identifier and the answer of one request.

    Raises:
        EnvironmentProblem: The status is not 200.
    """
    response = ask(connection, case.body)
    if response.status != 200:
        raise EnvironmentProblem(f"status {response.status}: {response.read().decode()[:300]}")
    if not case.stream:
        whole = json.loads(response.read())
        choice, used = whole["choices"][0], whole["usage"]
        return whole["id"], _answer(choice["message"]["content"], choice["finish_reason"], used)
    chunks = list(events(response))
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    return chunks[0]["id"], _answer(text, choices[-1]["finish_reason"], chunks[-1]["usage"])


def _answer(text: str, reason: str, used: dict[str, int]) -> Answer:
    return Answer(
        text=text,
        finish_reason=reason,
        prompt_tokens=used["prompt_tokens"],
        tokens=used["completion_tokens"],
    )
