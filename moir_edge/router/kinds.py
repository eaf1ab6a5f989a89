"""The router kinds by name."""

from __future__ import annotations

from moir_edge.checked import a, checked, size
from moir_edge.router.base import Router
from moir_edge.router.channel import ChannelRouter
from moir_edge.router.config import RouterConfig
from moir_edge.router.gate import GateRouter
from moir_edge.router.token import TokenRouter

__all__ = ["build_router"]

_KINDS: dict[str, type[Router]] = {
    "token": TokenRouter,
    "channel": ChannelRouter,
    "gate": GateRouter,
}


@checked(config=a(RouterConfig), hidden_size=size)
def build_router(config: RouterConfig, hidden_size: int) -> Router:
    """Return a fresh router of the kind that the settings name.

    Args:
        config: Settings of the router.
        hidden_size: Width D of the language model's embeddings.
    """
    return _KINDS[config.kind](config, hidden_size)
