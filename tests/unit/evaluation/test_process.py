from __future__ import annotations

import os
import signal
import sys
import threading
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest

from moir_edge.data.answers import Answer
from moir_edge.data.rows import Row
from moir_edge.errors import BundleError, DataError, EnvironmentProblem
from moir_edge.evaluation.candidates import CandidateSpec, Reply, TimedAnswer
from moir_edge.evaluation.process import CandidateProcess
from moir_edge.evaluation.worker import CLOSE, serve

from .fakes import FakeCandidate, right


class _Model:
    """A candidate inside the worker, where rows come whole; answers as `FakeCandidate` does."""

    def __init__(self, rows: list[Row]) -> None:
        self._inner = FakeCandidate("fake", right, rows)
        self._rows = rows
        self.facts = self._inner.loaded.facts

    def answer(self, rows: list[Row]) -> list[Answer]:
        return self._inner.answer([self._rows.index(row) for row in rows])

    def timed(self, row: Row, *, router: bool, max_new_tokens: int) -> TimedAnswer:
        index = self._rows.index(row)
        return self._inner.timed(index, router=router, max_new_tokens=max_new_tokens)


def _spec(source: Path | str, kind: Any = "bundle") -> CandidateSpec:
    return CandidateSpec(name="one", source=str(source), kind=kind, threads=1, max_new_tokens=4)


class _Served:
    """`serve` in a thread, with a made-up candidate."""

    def __init__(self, rows: list[Row], load: Any) -> None:
        self.connection, theirs = Pipe()
        self._thread = threading.Thread(target=serve, args=(theirs, load))
        self._thread.start()
        self.connection.send((_spec("x"), rows))

    def ask(self, command: str, **arguments: Any) -> Reply:
        self.connection.send((command, arguments))
        reply: Reply = self.connection.recv()
        return reply

    def end(self) -> bool:
        self._thread.join(60)
        return not self._thread.is_alive()


def test_worker_obeys_reports_errors_and_goes_on(rows: list[Row]) -> None:
    served = _Served(rows, lambda _: _Model(rows))
    reply = served.connection.recv()
    assert reply.value is not None, reply
    loaded = reply.value
    assert loaded.facts.weights_bytes == 8_000_000
    assert loaded.libraries_memory_bytes > 0
    assert [answer.text for answer in served.ask("answer", indices=[0, 1]).value] == ["red", "true"]
    assert served.ask("timed", index=0, router=True, max_new_tokens=1).value.ttft_ms > 0
    failed = served.ask("answer", indices=[99])
    assert failed.traceback is not None
    assert "IndexError" in failed.traceback
    assert served.ask("peak_memory").value > 0
    served.connection.send((CLOSE, {}))
    assert served.end()


def test_worker_ends_when_loading_fails_or_the_parent_is_gone(rows: list[Row]) -> None:
    def refuse(_: CandidateSpec) -> Any:
        raise DataError("no good")

    served = _Served(rows, refuse)
    assert served.connection.recv().error == ("DataError", "no good")
    assert served.end()
    served = _Served(rows, lambda _: _Model(rows))
    served.connection.recv()
    served.connection.close()
    assert served.end()


def test_errors_of_the_process_keep_class_and_text(rows: list[Row], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a bundle: it lacks manifest\.json"):
        CandidateProcess(_spec(tmp_path), rows)


def test_death_of_the_process_is_one_sentence(
    rows: list[Row], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = _children()  # of other tests, such as multiprocessing's own helpers
    # a stand-in for the worker that dies as the kernel's out-of-memory killer would have it
    dying = f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})"
    _start_instead(dying, monkeypatch)
    with pytest.raises(
        EnvironmentProblem, match="of one was killed by signal 9; if memory ran out"
    ):
        CandidateProcess(_spec(tmp_path), rows)
    printing = "import sys; print('last words', file=sys.stderr); sys.exit(3)"
    _start_instead(printing, monkeypatch)
    with pytest.raises(EnvironmentProblem, match=r"exit code 3 \(its last line: last words\)"):
        CandidateProcess(_spec(tmp_path), rows)
    assert _children() == before


def _start_instead(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process run other code than the worker's."""
    monkeypatch.setattr(
        "moir_edge.evaluation.process.child_command", lambda *_: [sys.executable, "-c", code]
    )


def _children() -> list[str]:
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return path.read_text().split() if path.exists() else []
