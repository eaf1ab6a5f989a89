"""Clients that hold connections open for nothing."""

from __future__ import annotations

import socket
import time

import pytest

from .running import SECONDS, Model, Run, received, running


def drip(connection: socket.socket, data: bytes) -> None:
    """Send data byte by byte."""
    for one in data:
        connection.sendall(bytes([one]))
        time.sleep(0.05)


def test_a_client_that_sends_no_request_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moir_edge.serve.connection.REQUEST_SECONDS", 0.5)
    with running(Model()) as server, server.connect() as silent, server.connect() as dripping:
        started = time.monotonic()
        head = b"GET /health HTTP/1.1\r\n" + b"X-Drip: 1\r\n" * 1000
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            drip(dripping, head)
        assert time.monotonic() - started < SECONDS  # the whole takes ten minutes
        assert silent.recv(1) == b""


def test_a_long_answer_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moir_edge.serve.connection.REQUEST_SECONDS", 1)
    run = Run()
    with running(Model(run)) as server:
        asked = server.ask()
        assert run.begun.wait(SECONDS)
        time.sleep(1.2)  # past the time for a head, which runs from before the request
        run.go.release(2)
        assert received(asked)[0] == 200


def test_idle_connections_give_way_to_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moir_edge.serve.connection._MOST", 4)
    run = Run()
    with running(Model(run)) as server:
        asked = server.ask()
        assert run.begun.wait(SECONDS)
        idle = []
        for _ in range(10):
            idle.append(server.connect())
            time.sleep(0.01)
        run.go.release(2)
        assert received(asked)[0] == 200  # a request that is served stays
        idle[-1].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert received(idle[-1])[0] == 200
        assert idle[0].recv(1) == b""
        for one in idle:
            one.close()


def test_requests_that_do_not_come_give_way_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moir_edge.serve.connection._MOST", 4)
    run = Run()
    with running(Model(run)) as server:
        slow = []
        for _ in range(8):
            slow.append(server.post(b"{", **{"Content-Length": "100"}))
            time.sleep(0.02)
        asked = server.ask()
        run.go.release(2)
        assert received(asked)[0] == 200
        for one in slow:
            one.close()
