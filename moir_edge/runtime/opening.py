"""Open a bundle's components with a provider: ONNX Runtime or OpenVINO on its graphs, or TensorRT on its engines."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, get_args

from moir_edge.arguments import switch, text
from moir_edge.checked import checked
from moir_edge.errors import EnvironmentProblem, UnsupportedError, closest
from moir_edge.runtime.providers import Provider, graph_provider
from moir_edge.threads import ThreadWait

if TYPE_CHECKING:
    from moir_edge.bundle import Bundle
    from moir_edge.runtime.interface import Sessions

__all__ = ["open_sessions"]

_log = logging.getLogger(__name__)


@checked(provider=text, lazy_vision=switch)
def open_sessions(
    bundle: Bundle,
    *,
    threads: int | None,
    thread_wait: ThreadWait | None = None,
    provider: Provider | None,
    lazy_vision: bool = False,
) -> Sessions:
    """Load a bundle's components.

    Args:
        bundle: An opened bundle.
        threads: Threads of one operator on the CPU; None takes one per physical core.
        thread_wait: How idle ones wait; None for `moir_edge.threads.default_thread_wait`.
        provider: Who computes. None takes the bundle's engines where they fit this machine, else what `graph_provider`
            returns; where CUDA does not start after all, the CPU takes over with a logged line.
        lazy_vision: Open the vision tower when a picture comes, where ONNX Runtime runs it.

    Raises:
        UnsupportedError: There is no such provider.
        EnvironmentProblem: This machine lacks what the provider needs.
        BundleError: The bundle lacks it, or a file of it cannot be loaded.
    """
    if provider is not None and provider not in get_args(Provider):
        raise UnsupportedError(
            f"unknown provider {provider!r}; {closest(provider, get_args(Provider))}"
        )
    chosen = provider or _default(bundle)
    if chosen == "tensorrt":
        from moir_edge.runtime.tensorrt.sessions import EngineSessions

        return EngineSessions(bundle)
    if chosen == "openvino" or chosen == "openvino-fast":
        from moir_edge.runtime.openvino.sessions import OpenVinoSessions

        return OpenVinoSessions(bundle, threads=threads, fast=chosen == "openvino-fast")
    from moir_edge.runtime.sessions import GraphSessions

    graphs = partial(
        GraphSessions.of,
        bundle,
        threads=threads,
        thread_wait=thread_wait,
        lazy_vision=lazy_vision,
    )
    try:
        return graphs(provider=chosen)
    except EnvironmentProblem as error:
        if provider is not None or chosen == "cpu":
            raise
        _log.warning(f"running on the CPU: {error}")
    return graphs(provider="cpu")


def _default(bundle: Bundle) -> Provider:
    if bundle.manifest.engines:
        from moir_edge.runtime.tensorrt.selection import engines_fit

        if engines_fit(bundle):
            return "tensorrt"
    return graph_provider()
