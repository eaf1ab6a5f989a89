"""The routers and how they are attached to a Hugging Face model; only `RouterConfig` and positions import no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    from moir_edge.router.config import RouterConfig
    from moir_edge.router.positions import PromptPositions, prompt_positions
    from moir_edge.router.token import RouterOutput, TokenRouter

__all__ = [
    "PromptPositions",
    "RouterConfig",
    "RouterOutput",
    "Routing",
    "TokenRouter",
    "hooks_removed",
    "last_routing",
    "load_retrofitted",
    "prompt_positions",
    "remove_router",
    "retrofit",
    "router_disabled",
]

_HOMES = {
    "RouterConfig": "config",
    "PromptPositions": "positions",
    "prompt_positions": "positions",
    "RouterOutput": "token",
    "TokenRouter": "token",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    # Imported on first use: the device runtime reads the config and has no torch.
    home = importlib.import_module(f"{__name__}.{_HOMES.get(name, 'attach')}")
    value = getattr(home, name)
    globals()[name] = value
    return value
