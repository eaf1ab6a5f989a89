"""A token router's weights as the fused kernels read them: float32, stacked over the two sides, constants folded in."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

if TYPE_CHECKING:
    from moir_edge.router.config import RouterConfig
    from moir_edge.router.fused.protocol import FusableRouter

__all__ = ["RouterWeights", "columns", "stack_weights"]

_Stamp = tuple[tuple[int, int], ...]
_cache: WeakKeyDictionary[FusableRouter, tuple[_Stamp, RouterWeights]] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class RouterWeights:
    """Weights of both sides, image first, contiguous float32; zero where a side has none.

    Attributes:
        norm_scale: (2, hidden).
        norm_shift: (2, hidden).
        head: (2, hidden) of the density head.
        head_bias: (2,).
        normal: (2, hidden, columns), what multiplies the normalised token; see `columns`. 1/√rank is in the query.
        down: (2, hidden, rank), what multiplies the raw token.
        up: (2, rank, hidden).
        blend: (2, hidden), behind its tanh.
        edge: (2,) of a learned gate.
        slope: (2,) of a learned gate.
    """

    norm_scale: Tensor
    norm_shift: Tensor
    head: Tensor
    head_bias: Tensor
    normal: Tensor
    down: Tensor
    up: Tensor
    blend: Tensor
    edge: Tensor
    slope: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the fields in order."""
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)


def columns(merge: str, direction: str, rank: int) -> tuple[int, int, int]:
    """Return how many columns `normal` has, and where those of the key and of `own` start.

    A side's columns are [query | own | key]. A side that is only enriched has no key, one that only enriches has its key
    first: the kernels compute the columns that the busier side needs for both.

    Args:
        merge: The router's merge.
        direction: The router's direction.
        rank: The router's rank.
    """
    own = 2 * rank if merge == "concat" else rank
    if direction in ("both", "auto"):
        return own + rank, own, rank
    return own, 0, rank


def stack_weights(router: FusableRouter) -> RouterWeights:
    """Return the router's weights for the kernels; stacked anew only after a weight changed or moved.

    Args:
        router: A token router, on any device and in any dtype.
    """
    parameters = tuple(router.parameters())
    if any(item.is_inference() for item in parameters):
        # Such tensors do not count their changes, so that a stale copy could not be told.
        return _stacked(router)
    stamp = tuple((item.data_ptr(), item._version) for item in parameters)
    known = _cache.get(router)
    if known is None or known[0] != stamp:
        known = _cache[router] = (stamp, _stacked(router))
    return known[1]


@torch.no_grad()
def _stacked(router: FusableRouter) -> RouterWeights:
    config, hidden = router.config, router.hidden_size
    rank, zeros = config.rank, router.image.norm.weight.new_zeros

    def both(read: Callable[[Any], Tensor | None], *shape: int) -> Tensor:
        found = (read(router.image), read(router.text))
        filled = [zeros(shape, dtype=torch.float32) if item is None else item for item in found]
        return torch.stack([item.float() for item in filled]).contiguous()

    def matrix(name: str) -> Callable[[Any], Tensor | None]:
        return lambda side: getattr(side, name).weight.T if hasattr(side, name) else None

    def head(side: Any) -> Tensor | None:
        return side.head.weight[0] if hasattr(side, "head") else None

    def head_bias(side: Any) -> Tensor | None:
        return side.head.bias[0] if hasattr(side, "head") else None

    def blend(side: Any) -> Tensor | None:
        return torch.tanh(side.blend.float()) if hasattr(side, "blend") else None

    def ramp(part: int) -> Callable[[Any], Tensor | None]:
        return lambda side: side.ramp()[part][0] if hasattr(side, "gate_edge") else None

    width = columns(config.merge, config.direction, rank)[0]
    return RouterWeights(
        norm_scale=both(lambda side: side.norm.weight, hidden),
        norm_shift=both(lambda side: side.norm.bias, hidden),
        head=both(head, hidden),
        head_bias=both(head_bias),
        normal=both(lambda side: _normal(side, config, width), hidden, width),
        down=both(matrix("down"), hidden, rank),
        up=both(matrix("up"), rank, hidden),
        blend=both(blend, hidden),
        edge=both(ramp(0)),
        slope=both(ramp(1)),
    )


def _normal(side: Any, config: RouterConfig, width: int) -> Tensor:
    """Return one side's columns [query | own | key], zeros behind them: (hidden, width)."""
    parts = []
    if hasattr(side, "query"):
        parts.append(side.query.weight.float() / math.sqrt(config.rank))
    if hasattr(side, "own"):
        parts.append(side.own.weight.float())
    if hasattr(side, "key"):
        parts.append(side.key.weight.float())
    joined = torch.cat(parts).T
    return torch.nn.functional.pad(joined, (0, width - joined.shape[1]))
