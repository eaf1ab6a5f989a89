"""Ways to choose the image tokens that stay: by density, at random, by norm, and by similarity to those that stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from moir_edge.errors import UnsupportedError, closest

if TYPE_CHECKING:
    from moir_edge.runtime.interface import Floats, Ints

__all__ = [
    "DENSITY",
    "ImageTokens",
    "Selector",
    "keep_highest",
    "register_selector",
    "selector_named",
    "selector_names",
]

DENSITY = "density"
"""The selector that needs a router's scores."""

_PIVOT_SHARE = 8  # one pivot for so many tokens that stay


@dataclass(frozen=True, kw_only=True)
class ImageTokens:
    """The image tokens of one prompt, all pictures in order.

    Attributes:
        embeds: (tokens, hidden) float32, as the language model would read them.
        density: (tokens,) float32, the router's scores in [0, 1]; None where no router gave any.
        seed: Makes drawing repeatable.
    """

    embeds: Floats
    density: Floats | None
    seed: int


class Selector(Protocol):
    """A way to choose the tokens that stay."""

    def __call__(self, tokens: ImageTokens, keep: int) -> Ints:
        """Return the numbers of `keep` tokens, in ascending order.

        Args:
            tokens: At least `keep`.
            keep: At least 1.
        """


_SELECTORS: dict[str, Selector] = {}


def register_selector(name: str) -> Callable[[Selector], Selector]:
    """Return a decorator that gives a selector its name.

    Raises:
        ValueError: The name is taken.
    """

    def register(selector: Selector) -> Selector:
        if name in _SELECTORS:
            raise ValueError(f"the selector {name!r} is registered twice")
        _SELECTORS[name] = selector
        return selector

    return register


def selector_names() -> tuple[str, ...]:
    """Return the names of all selectors, `density` first."""
    return tuple(_SELECTORS)


def selector_named(name: str) -> Selector:
    """Return a selector.

    Raises:
        UnsupportedError: There is none of that name.
    """
    if name not in _SELECTORS:
        raise UnsupportedError(f"unknown `prune_by={name}`; {closest(name, selector_names())}")
    return _SELECTORS[name]


def keep_highest(scores: npt.NDArray[np.floating], keep: int) -> Ints:
    """Return the numbers of the highest scores in ascending order; of equal ones, the first stay."""
    order = np.argsort(-scores, kind="stable")[:keep]
    return np.sort(order).astype(np.int64)


@register_selector(DENSITY)
def _by_density(tokens: ImageTokens, keep: int) -> Ints:
    """Keep the tokens that the router scores highest."""
    if tokens.density is None:
        raise ValueError("density needs a router's scores")
    return keep_highest(tokens.density, keep)


@register_selector("random")
def _at_random(tokens: ImageTokens, keep: int) -> Ints:
    """Keep any tokens; the draw depends on the seed and on how many there are."""
    order = np.random.default_rng(tokens.seed).permutation(len(tokens.embeds))
    return np.sort(order[:keep]).astype(np.int64)


@register_selector("norm")
def _by_norm(tokens: ImageTokens, keep: int) -> Ints:
    """Keep the longest embeddings."""
    return keep_highest(np.linalg.norm(tokens.embeds, axis=1), keep)


@register_selector("similarity")
def _by_similarity(tokens: ImageTokens, keep: int) -> Ints:
    """Keep pivots, then again and again the token that is least similar to all that stay.

    Pivots are the embeddings of the largest absolute sum, one for eight that stay. Similarity is the cosine. No training and
    no attention score is needed.

    Source: the idea of DART, "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More"
    (arXiv 2502.11494), which takes a decoder layer's states and compares with pivots alone.
    """
    embeds = tokens.embeds
    sizes = np.abs(embeds).sum(axis=1)
    chosen = keep_highest(sizes, max(1, keep // _PIVOT_SHARE)).tolist()
    lengths = np.maximum(np.linalg.norm(embeds, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    directions = embeds / lengths
    nearest = (directions @ directions[chosen].T).max(axis=1)
    nearest[chosen] = np.inf
    while len(chosen) < keep:
        least = int(nearest.argmin())
        chosen.append(least)
        np.maximum(nearest, directions @ directions[least], out=nearest)
        nearest[least] = np.inf
    return np.sort(np.array(chosen, dtype=np.int64))
