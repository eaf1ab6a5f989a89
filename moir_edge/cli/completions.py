"""Values that a shell completes: targets, precisions, providers, selectors of image tokens, and on or off."""

from __future__ import annotations

__all__ = [
    "complete_precision",
    "complete_provider",
    "complete_selector",
    "complete_switch",
    "complete_target",
]


def complete_target(incomplete: str) -> list[tuple[str, str]]:
    """Return the targets that begin so, with the devices that they stand for."""
    from moir_edge.targets import TARGETS

    return [(name, one.description) for name, one in TARGETS.items() if name.startswith(incomplete)]


def complete_precision(incomplete: str) -> list[str]:
    """Return the precisions that begin so."""
    from moir_edge.precisions import PRECISIONS

    return [name for name in PRECISIONS if name.startswith(incomplete)]


def complete_provider(incomplete: str) -> list[str]:
    """Return the providers that begin so."""
    from typing import get_args

    from moir_edge.runtime.providers import Provider

    return [name for name in get_args(Provider) if name.startswith(incomplete)]


def complete_selector(incomplete: str) -> list[str]:
    """Return the selectors of image tokens that begin so."""
    from moir_edge.runtime.pruning import selector_names

    return [name for name in selector_names() if name.startswith(incomplete)]


def complete_switch(incomplete: str) -> list[str]:
    """Return on and off, as far as they begin so."""
    return [name for name in ("on", "off") if name.startswith(incomplete)]
