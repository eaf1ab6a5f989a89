"""Requests whose model is in the test's hands: order in time, ends, and clients that go."""

from __future__ import annotations

import json

import pytest

from .running import SECONDS, Model, Run, body, received, received_until, running, wait_until


def released(*runs: Run) -> None:
    for run in runs:
        run.go.release(2)


def test_a_stream_has_a_sign_of_life_while_it_waits() -> None:
    first, second = Run(), Run()
    with running(Model(first, second), ping=0.05) as server:
        before = server.ask()
        assert first.begun.wait(SECONDS)
        waiting = server.ask(stream=True)  # behind the first in the queue
        early = received_until(waiting, b": ping", 3)
        released(first, second)
        assert received(before)[0] == 200
        status, content = received(waiting, early)
    assert status == 200
    assert content.index(": ping") < content.index("0 ")
    assert content.index("0 ") < content.index("1 ") < content.index("[DONE]")


def test_what_goes_wrong_soon_has_its_own_status_in_a_stream_too() -> None:
    with running(Model(ValueError("the graph broke")), ping=SECONDS) as server:
        status, content = received(server.ask(stream=True))
    assert status == 500
    assert json.loads(content)["error"]["message"] == "ValueError: the graph broke"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_takes_too_long_is_given_up(stream: bool) -> None:
    run = Run()
    with running(Model(run, ended := Run()), timeout=1.5, ping=0.1) as server:
        status, content = received(server.ask(stream=stream))
        assert "the answer takes longer than 1.5 s, the server's bound" in content
        assert status == (200 if stream else 504)
        released(run, ended)
        assert received(server.ask())[0] == 200
    assert run.taken == 1  # the step that was under way was the last


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_leaves_the_queue(stream: bool) -> None:
    first, last = Run(), Run()
    with running(Model(first, last), most_waiting=1) as server:
        before = server.ask()
        assert first.begun.wait(SECONDS)
        with server.ask(stream=stream):
            server.wait_for(waiting=1)
            assert received(server.ask())[0] == 429
        server.wait_for(waiting=0)
        after = server.ask()
        server.wait_for(waiting=1)
        released(first, last)
        assert [received(one)[0] for one in (before, after)] == [200, 200]


def test_a_stop_lets_a_stream_come_to_its_end() -> None:
    run = Run()
    with running(Model(run)) as server:
        stream = server.ask(stream=True)
        assert run.begun.wait(SECONDS)
        run.go.release()
        server.server.should_exit = True
        server.wait_for_stop()
        run.go.release()
        status, content = received(stream)
    assert status == 200
    assert content.index("1 ") < content.index("[DONE]")


def test_a_stop_cuts_off_what_outlasts_its_grace() -> None:
    run = Run()
    with running(Model(run), grace=1) as server:
        stream = server.ask(stream=True)
        assert run.begun.wait(SECONDS)
        run.go.release()
        server.server.should_exit = True
        assert "[DONE]" not in received(stream)[1]  # though the answer never ends
        released(run)


def test_a_body_that_comes_too_slowly_is_given_up() -> None:
    with running(Model(), body_timeout=0.3) as server:
        content = json.dumps(body()).encode()
        connection = server.post(content[:10], **{"Content-Length": str(len(content))})
        status, text = received(connection)
    assert status == 408
    assert "the request did not arrive in 0.3 s" in text


def test_too_much_at_a_time_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moir_edge.serve.bodies.REQUESTS_BYTES", 1000)
    with running(Model()) as server:
        slow = server.post(b"x" * 900, **{"Content-Length": "950"})
        wait_until(lambda: received(server.post(b"x" * 500))[0] == 429)
        refusal = received(server.post(b"x" * 500))[1]
        assert "too much arrives at a time; try again in 1 s" in refusal
        slow.close()
        wait_until(lambda: received(server.post(b"x" * 900))[0] == 400)  # there is room again


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:1", "[::1]:80"])
def test_names_of_this_machine_are_taken(host: str) -> None:
    with running(Model(), host_names=("localhost", "127.0.0.1", "::1")) as server:
        assert received(server.post(b"{}", Host=host))[0] == 400


@pytest.mark.parametrize("host", ["example.org", "localhost.example.org", "[", "", "127.0.0.1@x"])
def test_other_names_are_refused(host: str) -> None:
    with running(Model(), host_names=("localhost", "127.0.0.1", "::1")) as server:
        status, text = received(server.post(b"{}", Host=host))
    assert status == 403
    assert "the server is not known as" in text
