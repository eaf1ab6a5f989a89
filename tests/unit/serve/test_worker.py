from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest

from moir_edge.errors import DataError
from moir_edge.runtime import EdgeModel
from moir_edge.runtime.settings import GenerationSettings
from moir_edge.serve.errors import ApiError
from moir_edge.serve.jobs import Done, Event, Failed, Job, Piece
from moir_edge.serve.worker import Worker

from .running import SECONDS, Model, Run, wait_until


class Events(list[Event]):
    """What a job emitted."""

    def wait(self, count: int) -> None:
        wait_until(lambda: len(self) >= count)


def job(run: Run | Exception, images: tuple[bytes, ...] = ()) -> tuple[Job, Events]:
    return job_of(Model(run), images=images)


def job_of(model: Model, images: tuple[bytes, ...] = (), **settings: Any) -> tuple[Job, Events]:
    events = Events()
    made = Job(
        model=cast("EdgeModel", model),
        conversation=[],
        images=images,
        settings=GenerationSettings(**settings),
        logprobs=None,
        stream=True,
        emit=events.append,
    )
    return made, events


def told_jobs(model: Model, count: int) -> list[tuple[Job, Events]]:
    """Return jobs whose conversations are their numbers."""
    found = [job_of(model) for _ in range(count)]
    for number, (one, _) in enumerate(found):
        one.conversation = [{"content": number}]
    return found


def numbers(conversations: list[Any]) -> list[int]:
    return [one[0]["content"] for one in conversations]


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker(most_waiting=1)
    yield made
    made.stop(SECONDS)


def released(steps: int) -> Run:
    run = Run(steps)
    run.go.release(steps)
    return run


def begun(worker: Worker) -> Run:
    """Return a run that keeps the worker busy until it is released."""
    run = Run(1)
    worker.submit(job(run)[0])
    wait_until(lambda: bool(worker.running))
    return run


def test_an_answer_comes_piece_by_piece(worker: Worker) -> None:
    asked, events = job(released(3))
    worker.submit(asked)
    events.wait(4)
    assert [event.text for event in events[:3] if isinstance(event, Piece)] == ["0 ", "1 ", "2 "]
    assert isinstance(events[3], Done)
    assert events[3].queue_ms >= 0


def test_a_cancelled_answer_stops_at_its_next_step(worker: Worker) -> None:
    run = Run(100)
    asked, events = job(run)
    worker.submit(asked)
    run.go.release(2)
    events.wait(2)
    worker.cancel(asked)
    run.go.release(98)
    after, done = job(released(1))
    worker.submit(after)
    done.wait(2)
    assert run.taken == 3  # the step that was under way
    assert len(events) == 2


def test_a_job_that_was_cancelled_while_it_waited_is_not_begun(worker: Worker) -> None:
    run = begun(worker)
    second, events = job(RuntimeError("it was begun"))
    worker.submit(second)
    worker.cancel(second)
    assert worker.waiting == 0  # its place is free at once
    run.go.release()
    worker.stop(SECONDS)
    assert events == []


def test_a_full_queue_says_when_to_come_back(worker: Worker) -> None:
    run = begun(worker)
    worker.submit(job(released(1))[0])
    assert worker.waiting == 1
    with pytest.raises(ApiError) as caught:
        worker.submit(job(released(1))[0])
    assert caught.value.status == 429
    assert caught.value.retry_after is not None
    assert str(caught.value).startswith("1 requests wait for the device already; try again in ")
    run.go.release()


def test_images_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moir_edge.serve.worker.REQUESTS_BYTES", 100)
    worker = Worker(most_waiting=5)
    run = begun(worker)
    for _ in range(2):
        worker.submit(job(released(1), (b"x" * 50,))[0])
    with pytest.raises(ApiError) as caught:
        worker.submit(job(released(1), (b"x",))[0])
    assert caught.value.status == 429
    assert str(caught.value).startswith("large images of other requests wait")
    worker.submit(job(released(1))[0])
    run.go.release()
    worker.stop(SECONDS)


def test_a_request_that_fails_harms_no_other(worker: Worker) -> None:
    for problem, status in ((DataError("the prompt is bad"), 400), (ZeroDivisionError(), 500)):
        asked, events = job(problem)
        worker.submit(asked)
        events.wait(1)
        assert isinstance(events[0], Failed)
        assert events[0].error.status == status
    good, done = job(released(1))
    worker.submit(good)
    done.wait(2)
    assert isinstance(done[-1], Done)


def test_a_worker_that_stops_ends_what_is_there_and_takes_no_more() -> None:
    worker = Worker(most_waiting=4)
    asked = [job(released(2)) for _ in range(3)]
    for one, _ in asked:
        worker.submit(one)
    worker.stop(SECONDS)
    assert [len(events) for _, events in asked] == [3, 3, 3]
    assert not worker.ready
    with pytest.raises(ApiError) as caught:
        worker.submit(job(released(1))[0])
    assert caught.value.status == 503


@pytest.fixture
def together() -> Iterator[Worker]:
    made = Worker(most_waiting=9, most_together=3)
    yield made
    made.stop(SECONDS)


def waiting_behind(worker: Worker, *asked: Job) -> None:
    """Let jobs wait together, and then have their turn."""
    run = begun(worker)
    for one in asked:
        worker.submit(one)
    run.go.release()


def test_jobs_of_a_kind_run_together_and_each_ends_in_its_time(together: Worker) -> None:
    batch, last = Run(1, 3, 2), released(1)
    model = Model(batch, last)
    asked = [job_of(model) for _ in range(4)]
    waiting_behind(together, *(one for one, _ in asked))
    (_, short), (_, long), (_, middle), (_, later) = asked
    batch.go.release()
    short.wait(2)
    assert isinstance(short[-1], Done)
    assert short[-1].generation.token_ids == ((0,),)
    long.wait(1)
    assert len(long) == 1
    batch.go.release(2)
    later.wait(2)  # a fourth was too many for the batch
    for events, text, prompt_tokens in ((long, "0 1 2 ", 11), (middle, "0 1 ", 12)):
        assert "".join(one.text for one in events if isinstance(one, Piece)) == text
        assert isinstance(events[-1], Done)
        assert events[-1].generation.texts == (text,)
        assert events[-1].generation.prompt_tokens == (prompt_tokens,)
    assert [len(rows) for rows in model.asked] == [3, 1]


def test_only_jobs_of_a_kind_run_together(together: Worker) -> None:
    model = Model(*(released(1) for _ in range(4)))
    asked = [
        job_of(model),
        job_of(model, max_new_tokens=5),
        job_of(model, temperature=0.5, seed=1),
        job_of(model, temperature=0.5, seed=1),
    ]
    waiting_behind(together, *(one for one, _ in asked))
    for _, events in asked:
        events.wait(2)
    assert [len(rows) for rows in model.asked] == [1, 1, 1, 1]


def test_a_bad_job_of_a_batch_spoils_no_other(together: Worker) -> None:
    bad = DataError("the second image is broken")
    model = Model(bad, released(1), bad, released(1))
    asked = [job_of(model) for _ in range(3)]
    waiting_behind(together, *(one for one, _ in asked))
    for _, events in asked:
        events.wait(1)
    asked[2][1].wait(2)
    assert [type(events[-1]) for _, events in asked] == [Done, Failed, Done]


def test_a_batch_goes_on_without_those_who_left(together: Worker) -> None:
    batch = Run(3, 3)
    model = Model(batch)
    (left, gone), (_, stays) = asked = [job_of(model) for _ in range(2)]
    waiting_behind(together, *(one for one, _ in asked))
    batch.go.release()
    stays.wait(1)
    together.cancel(left)
    batch.go.release(2)
    stays.wait(4)
    assert isinstance(stays[-1], Done)
    assert not any(isinstance(one, Done) for one in gone)


def test_what_has_its_turn_next_is_encoded_while_the_device_computes() -> None:
    worker = Worker(most_waiting=9)
    model = Model(*(released(1) for _ in range(3)))
    asked = told_jobs(model, 3)
    run = begun(worker)
    for one, _ in asked:
        worker.submit(one)
    wait_until(lambda: asked[0][0].is_encoded)
    assert worker.running  # the device is still at work
    assert numbers(model.encoded) == [0]  # and no more is held than what comes next
    run.go.release()
    for _, events in asked:
        events.wait(2)
    worker.stop(SECONDS)
    assert numbers(model.encoded) == [0, 1, 2]  # each once
    assert [numbers([row[0] for row in rows]) for rows in model.asked] == [[0], [1], [2]]


def test_all_rows_of_the_next_batch_are_encoded_ahead(together: Worker) -> None:
    batch = Run(1, 1, 1)
    batch.go.release()
    model = Model(batch, released(1))
    asked = told_jobs(model, 4)
    run = begun(together)
    for one, _ in asked:
        together.submit(one)
    wait_until(lambda: all(one.is_encoded for one, _ in asked[:3]))
    assert together.running
    assert not asked[3][0].is_encoded
    run.go.release()


def test_an_idle_device_encodes_by_itself(worker: Worker) -> None:
    model = Model(released(1))
    names: list[str] = []
    encode = model.encode_row

    def noted(prompt: Any, images: Any) -> Any:
        names.append(threading.current_thread().name)
        return encode(prompt, images)

    model.encode_row = noted  # type: ignore[method-assign]
    asked, events = job_of(model)
    worker.submit(asked)
    events.wait(2)
    assert names == ["moir-edge-device"]


@pytest.mark.parametrize(
    ("problem", "status"), [(DataError("the image is broken"), 400), (ZeroDivisionError(), 500)]
)
def test_what_fails_ahead_is_told_once_and_in_its_turn(problem: Exception, status: int) -> None:
    worker = Worker(most_waiting=9)
    model, calls = Model(released(1)), []

    def failing(prompt: Any, images: Any) -> Any:
        calls.append((prompt, images))
        raise problem

    model.encode_row = failing  # type: ignore[method-assign]
    asked, events = job_of(model)
    run = begun(worker)
    worker.submit(asked)
    good, done = job(released(1))
    worker.submit(good)
    wait_until(lambda: asked.is_encoded)
    assert events == []
    run.go.release()
    done.wait(2)
    worker.stop(SECONDS)
    assert len(calls) == 1
    assert [one.error.status for one in events if isinstance(one, Failed)] == [status]
    assert isinstance(done[-1], Done)


def test_where_the_next_client_goes_away_the_one_behind_is_encoded() -> None:
    patient = Worker(most_waiting=9)
    model = Model(released(1))
    (first, _), (second, events) = told_jobs(model, 2)
    run = begun(patient)
    patient.submit(first)
    patient.submit(second)
    wait_until(lambda: first.is_encoded)
    assert not second.is_encoded
    patient.cancel(first)
    wait_until(lambda: second.is_encoded)
    assert patient.running  # the device is still at work
    run.go.release()
    events.wait(2)
    patient.stop(SECONDS)


def test_one_that_fits_is_encoded_though_others_are_before_it(together: Worker) -> None:
    model, other = Model(released(1), Run(1, 1)), Model(*(released(1) for _ in range(4)))
    asked = told_jobs(model, 2)
    run = begun(together)
    together.submit(asked[0][0])
    wait_until(lambda: asked[0][0].is_encoded)
    for one, _ in told_jobs(other, 4):
        together.submit(one)
    time.sleep(0.05)  # the reader waits again; it is not told of those
    together.submit(asked[1][0])
    wait_until(lambda: asked[1][0].is_encoded)
    assert together.running
    assert other.encoded == []
    run.go.release()


def test_what_lost_its_turn_is_not_held_encoded(together: Worker) -> None:
    model, other = Model(*(released(1) for _ in range(3))), Model(*(released(1) for _ in range(3)))
    (head, _), *rest = told_jobs(model, 3)
    run = begun(together)
    together.submit(head)
    (second, _), *behind = told_jobs(other, 3)
    together.submit(second)
    for one, _ in (*rest, *behind):
        together.submit(one)
    wait_until(lambda: all(one.is_encoded for one, _ in rest))
    together.cancel(head)
    wait_until(lambda: all(one.is_encoded for one, _ in behind))
    assert not any(one.is_encoded for one, _ in rest)
    run.go.release()


@pytest.mark.parametrize("ahead", [True, False])
def test_a_refused_prompt_leaves_nothing_behind(worker: Worker, ahead: bool) -> None:
    left: list[weakref.ref[Any]] = []

    def refusing(prompt: Any, images: Any) -> Any:
        pixels = np.zeros(1)
        left.append(weakref.ref(pixels))
        raise DataError(f"the prompt is too long for {len(pixels)} pixel")

    model = Model()
    model.encode_row = refusing  # type: ignore[method-assign]
    asked, events = job_of(model)
    watched = weakref.ref(asked)
    gc.disable()  # what is left must not wait for it
    try:
        run = begun(worker) if ahead else None
        worker.submit(asked)
        del asked
        if run is not None:
            wait_until(lambda: bool(left))
            wait_until(lambda: left[0]() is None)  # while it waits for its turn
            run.go.release()
        events.wait(1)
        assert isinstance(events.pop(), Failed)
        wait_until(lambda: left[0]() is None and watched() is None)
    finally:
        gc.enable()


def test_the_wait_of_those_beside_a_bad_one_ends_with_their_own_turn(together: Worker) -> None:
    bad, slow = DataError("the second image is broken"), Run(1)
    model = Model(bad, slow, released(1))
    asked = [job_of(model) for _ in range(2)]
    waiting_behind(together, *(one for one, _ in asked))
    assert slow.begun.wait(SECONDS)
    time.sleep(0.05)
    slow.go.release()
    asked[1][1].wait(2)
    (first, _), (second, _) = asked
    done = [events[-1] for _, events in asked]
    assert isinstance(done[0], Done)
    assert isinstance(done[1], Done)
    assert first.queued <= second.queued
    assert done[1].queue_ms >= done[0].queue_ms + 49 - 1000 * (second.queued - first.queued)


def test_a_cancelled_job_is_not_encoded_ahead() -> None:
    worker = Worker(most_waiting=9)
    run = begun(worker)
    model = Model(released(1))
    first, second = (one for one, _ in told_jobs(model, 2))
    slow, go = threading.Event(), threading.Event()

    def waits(prompt: Any, images: Any) -> Any:
        slow.set()
        assert go.wait(SECONDS)
        return prompt, images

    blocker, events = job(released(1))
    cast("Any", blocker.model).encode_row = waits
    for one in (blocker, first, second):
        worker.submit(one)
    assert slow.wait(SECONDS)
    worker.cancel(first)  # while the reader is at the one before it
    go.set()
    run.go.release()
    events.wait(2)
    worker.stop(SECONDS)
    assert numbers(model.encoded) == [1]


def test_a_run_holds_the_only_copy_of_what_was_encoded(worker: Worker) -> None:
    run = Run(1)
    model, made = Model(run), [np.zeros(1)]
    left = weakref.ref(made[0])
    model.encode_row = lambda prompt, images: made.pop()  # type: ignore[method-assign]
    asked, events = job_of(model)
    worker.submit(asked)
    assert run.begun.wait(SECONDS)
    assert len(model.asked) == 1
    model.asked.clear()  # as a run that has joined its rows
    wait_until(lambda: left() is None)
    run.go.release()
    events.wait(2)
