"""Run the application on a socket until a signal ends it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Mapping

import uvicorn

from moir_edge.errors import EnvironmentProblem, one_line
from moir_edge.runtime import EdgeModel
from moir_edge.serve.app import build_app
from moir_edge.serve.connection import Connection
from moir_edge.serve.settings import ServeSettings

__all__ = ["run_server"]

_KEEP_ALIVE = 5  # seconds that an idle connection stays open
_WAITING_CONNECTIONS = 128
# Seconds after which the thread that computes lets the loop send what it has: Python's own 5 ms were added to first tokens.
_SWITCH = 0.0005


def run_server(
    models: Mapping[str, EdgeModel],
    settings: ServeSettings,
    *,
    host: str,
    port: int,
    started: Callable[[str], None],
) -> None:
    """Serve bundles until SIGINT or SIGTERM; requests that run then get `settings.grace` seconds.

    Args:
        models: The loaded bundles by name.
        settings: How clients are treated.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        started: Called with the server's URL once it listens.

    Raises:
        EnvironmentProblem: The address cannot be listened on.
    """
    listening = _listen(host, port)
    config = uvicorn.Config(
        build_app(models, settings),
        http=Connection,
        ws="none",
        loop="asyncio",
        log_level="critical",  # it logs a trace for each answer that a stop or a deadline cuts off
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(settings.grace),
    )
    shown = f"[{host}]" if ":" in host else host
    started(f"http://{shown}:{listening.getsockname()[1]}")
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        sys.setswitchinterval(before)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_WAITING_CONNECTIONS)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot listen on {host} port {port} ({one_line(error)}); give another `host` or `port`"
        ) from error
    return listening
