"""The routers and how they are attached to a Hugging Face model; only `RouterConfig` and positions import no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moir_edge.lazy import lazy_names

if TYPE_CHECKING:
    from moir_edge.router.attach import (
        Routing,
        hooks_removed,
        last_routing,
        load_retrofitted,
        remove_router,
        retrofit,
        router_disabled,
    )
    from moir_edge.router.base import Router, RouterOutput
    from moir_edge.router.channel import ChannelRouter
    from moir_edge.router.config import RouterConfig
    from moir_edge.router.frame_tokens import newline_token_ids, special_token_ids
    from moir_edge.router.gate import GateRouter, InformationRouter
    from moir_edge.router.kinds import build_router
    from moir_edge.router.positions import PromptPositions, prompt_positions
    from moir_edge.router.probe import probe_router
    from moir_edge.router.token import TokenRouter

__all__ = [
    "ChannelRouter",
    "GateRouter",
    "InformationRouter",
    "PromptPositions",
    "Router",
    "RouterConfig",
    "RouterOutput",
    "Routing",
    "TokenRouter",
    "build_router",
    "hooks_removed",
    "last_routing",
    "load_retrofitted",
    "newline_token_ids",
    "probe_router",
    "prompt_positions",
    "remove_router",
    "retrofit",
    "router_disabled",
    "special_token_ids",
]

# Imported on first use: the device runtime reads the config and has no torch.
__getattr__ = lazy_names(
    __name__,
    {
        "config": ["RouterConfig"],
        "positions": ["PromptPositions", "prompt_positions"],
        "frame_tokens": ["newline_token_ids", "special_token_ids"],
        "base": ["Router", "RouterOutput"],
        "channel": ["ChannelRouter"],
        "gate": ["GateRouter", "InformationRouter"],
        "kinds": ["build_router"],
        "probe": ["probe_router"],
        "token": ["TokenRouter"],
        "attach": [
            "Routing",
            "hooks_removed",
            "last_routing",
            "load_retrofitted",
            "remove_router",
            "retrofit",
            "router_disabled",
        ],
    },
)
