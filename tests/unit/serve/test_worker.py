from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from moir_edge.errors import DataError
from moir_edge.runtime.settings import GenerationSettings
from moir_edge.serve.errors import ApiError
from moir_edge.serve.worker import Done, Event, Failed, Job, Piece, Worker


class Run:
    """A generation whose steps the test releases one by one."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.taken = 0
        self.go = threading.Semaphore(0)
        self.logprobs: list[list[Any]] = [[]]
        self.result = "the result"

    def __iter__(self) -> Iterator[tuple[str]]:
        while self.taken < self.steps:
            self.go.acquire()
            self.taken += 1
            yield (f"{self.taken} ",)


class Events(list[Event]):
    """What a job emitted."""

    def wait(self, count: int) -> None:
        deadline = time.monotonic() + 20
        while len(self) < count:
            assert time.monotonic() < deadline, f"{len(self)} of {count} events"
            time.sleep(0.001)


def model(make: Callable[[], Any]) -> Any:
    return SimpleNamespace(begin=lambda *_, **__: make())


def job(make: Callable[[], Any], images: tuple[bytes, ...] = ()) -> tuple[Job, Events]:
    events = Events()
    made = Job(
        model=model(make),
        conversation=[],
        images=images,
        settings=GenerationSettings(),
        logprobs=None,
        emit=events.append,
    )
    return made, events


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker(most_waiting=1)
    yield made
    made.stop(10)


def released(steps: int) -> Run:
    run = Run(steps)
    run.go.release(steps)
    return run


def begun(worker: Worker) -> Run:
    """Return a run that keeps the worker busy until it is released."""
    run = Run(1)
    worker.submit(job(lambda: run)[0])
    deadline = time.monotonic() + 20
    while not worker.busy:
        assert time.monotonic() < deadline
    return run


def test_an_answer_comes_piece_by_piece(worker: Worker) -> None:
    asked, events = job(lambda: released(3))
    worker.submit(asked)
    events.wait(4)
    assert [event.text for event in events[:3] if isinstance(event, Piece)] == ["1 ", "2 ", "3 "]
    assert isinstance(events[3], Done)
    assert events[3].queue_ms >= 0


def test_a_cancelled_answer_stops_at_its_next_step(worker: Worker) -> None:
    run = Run(100)
    asked, events = job(lambda: run)
    worker.submit(asked)
    run.go.release(2)
    events.wait(2)
    worker.cancel(asked)
    run.go.release(98)
    after, done = job(lambda: released(1))
    worker.submit(after)
    done.wait(2)
    assert run.taken == 3  # the step that was under way
    assert len(events) == 2


def test_a_job_that_was_cancelled_while_it_waited_is_not_begun(worker: Worker) -> None:
    run = begun(worker)
    second, events = job(lambda: pytest.fail("it was begun"))
    worker.submit(second)
    worker.cancel(second)
    assert worker.waiting == 0  # its place is free at once
    run.go.release()
    worker.stop(10)
    assert events == []


def test_a_full_queue_says_when_to_come_back(worker: Worker) -> None:
    run = begun(worker)
    worker.submit(job(lambda: released(1))[0])
    assert worker.waiting == 1
    with pytest.raises(ApiError) as caught:
        worker.submit(job(lambda: released(1))[0])
    assert caught.value.status == 429
    assert caught.value.retry_after is not None
    assert str(caught.value).startswith("1 requests wait for the device already; try again in ")
    run.go.release()


def test_images_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moir_edge.serve.worker.REQUESTS_BYTES", 100)
    worker = Worker(most_waiting=5)
    run = begun(worker)
    for _ in range(2):
        worker.submit(job(lambda: released(1), (b"x" * 50,))[0])
    with pytest.raises(ApiError) as caught:
        worker.submit(job(lambda: released(1), (b"x",))[0])
    assert caught.value.status == 429
    assert str(caught.value).startswith("large images of other requests wait")
    worker.submit(job(lambda: released(1))[0])
    run.go.release()
    worker.stop(10)


def test_a_request_that_fails_harms_no_other(worker: Worker) -> None:
    def broken() -> Any:
        raise DataError("the prompt is bad")

    def worse() -> Any:
        raise ZeroDivisionError

    for make, status in ((broken, 400), (worse, 500)):
        asked, events = job(make)
        worker.submit(asked)
        events.wait(1)
        assert isinstance(events[0], Failed)
        assert events[0].error.status == status
    good, done = job(lambda: released(1))
    worker.submit(good)
    done.wait(2)
    assert isinstance(done[-1], Done)


def test_a_worker_that_stops_ends_what_is_there_and_takes_no_more() -> None:
    worker = Worker(most_waiting=4)
    asked = [job(lambda: released(2)) for _ in range(3)]
    for one, _ in asked:
        worker.submit(one)
    worker.stop(10)
    assert [len(events) for _, events in asked] == [3, 3, 3]
    assert not worker.ready
    with pytest.raises(ApiError) as caught:
        worker.submit(job(lambda: released(1))[0])
    assert caught.value.status == 503
