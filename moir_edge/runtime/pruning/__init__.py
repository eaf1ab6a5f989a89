"""Drop image tokens after the router, so that the language model reads a shorter prompt."""

from __future__ import annotations

from moir_edge.runtime.pruning.dropping import Pruned, prune_prompt
from moir_edge.runtime.pruning.selectors import (
    DENSITY,
    ImageTokens,
    Selector,
    register_selector,
    selector_named,
    selector_names,
)
from moir_edge.runtime.pruning.settings import Pruning, chosen_pruning

__all__ = [
    "DENSITY",
    "ImageTokens",
    "Pruned",
    "Pruning",
    "Selector",
    "chosen_pruning",
    "prune_prompt",
    "register_selector",
    "selector_named",
    "selector_names",
]
