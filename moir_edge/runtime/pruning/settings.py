"""Check the share of image tokens to drop and the score, against what the bundle and the call can give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moir_edge.arguments import number, text
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.runtime.pruning.selectors import DENSITY, Selector, selector_named, selector_names

if TYPE_CHECKING:
    from moir_edge.bundle.manifest import Manifest

__all__ = ["Pruning", "check_selector", "check_share", "chosen_pruning"]

_SCORING_KIND = "token"


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """Choice of the image tokens to drop.

    Attributes:
        share: Of a prompt's image tokens, in [0, 1).
        selector: Chooses the tokens that stay.
        needs_density: Whether it reads the router's scores.
        seed: For a selector that draws.
    """

    share: float
    selector: Selector
    needs_density: bool
    seed: int

    def kept(self, tokens: int) -> int:
        """Return how many of so many image tokens stay: the share that is dropped is rounded down, and one stays at least."""
        return tokens - int(self.share * tokens + 1e-9)  # 0.29 * 100 is a little less than 29


def check_share(name: str, value: object) -> float | None:
    """Return a share of image tokens to drop; None as None.

    Raises:
        DataError: It is not a number of at least 0 and below 1.
    """
    share = number(name, value)
    if share is not None and not 0 <= share < 1:
        raise DataError(
            f"{name} is {share}; it must be at least 0 and below 1, as 0.25 for a quarter"
        )
    return share


def check_selector(name: str, value: object) -> str | None:
    """Return a selector's name; None as None.

    Raises:
        DataError: It is not a text.
        UnsupportedError: There is no selector of that name.
    """
    chosen = text(name, value)
    if chosen is not None:
        selector_named(chosen)
    return chosen


def chosen_pruning(
    share: float, by: str, *, seed: int | None, router: bool, manifest: Manifest, source: str
) -> Pruning | None:
    """Return what one call drops; None for nothing.

    Args:
        share: Of the image tokens.
        by: A selector's name.
        seed: None for 0.
        router: Whether the router takes part in the call.
        manifest: The bundle's.
        source: The bundle, for messages.

    Raises:
        UnsupportedError: The selector needs the density of tokens and there is none.
    """
    if not share:
        return None
    if by == DENSITY:
        missing = _why_no_density(manifest, source, router=router)
        if missing:
            others = ", ".join(one for one in selector_names() if one != DENSITY)
            raise UnsupportedError(f"{missing}; give another `prune_by`, one of {others}")
    return Pruning(
        share=share, selector=selector_named(by), needs_density=by == DENSITY, seed=seed or 0
    )


def _why_no_density(manifest: Manifest, source: str, *, router: bool) -> str:
    kind = None if manifest.router is None else str(manifest.router.get("kind", _SCORING_KIND))
    if kind is None:
        return f"{source} holds no router, so its image tokens have no density to drop them by"
    if kind != _SCORING_KIND:
        return f"a {kind} router does not score the density of image tokens to drop them by"
    return "" if router else "the router is off, so image tokens have no density to drop them by"
