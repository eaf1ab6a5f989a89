"""The smallest mix that reaches a score: layers raised one by one, the most divergence per byte first, as few as will do."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from moir_edge.calibration.mixed.layers import LayerUse
from moir_edge.calibration.mixed.records import LayerSensitivity

__all__ = ["Step", "mix_after", "raising_order", "smallest_reaching"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One layer raised to a higher precision.

    Attributes:
        layer: Place of the layer in the list that was measured.
        precision: What it is raised to.
        kl_saved: Divergence that this takes away, in nats; 0 where noise says that it takes none away.
        bytes_added: What it costs.
    """

    layer: int
    precision: str
    kl_saved: float
    bytes_added: int

    @property
    def worth(self) -> tuple[float, float]:
        """Divergence saved per byte, then divergence: what is free comes first."""
        per_byte = self.kl_saved / self.bytes_added if self.bytes_added > 0 else float("inf")
        return (per_byte if self.kl_saved > 0 else 0.0, self.kl_saved)


def raising_order(layers: Sequence[LayerSensitivity]) -> tuple[Step, ...]:
    """Return every step from all layers at their smallest precision to all in float32.

    The next step is always the one that saves the most divergence per byte. Of a layer's higher precisions the one of
    most worth is taken, so that one which hardly helps does not stand in the way of a higher one.

    Args:
        layers: As measured. Steps of equal worth come in this order.
    """
    queue = [_entry(step) for at in range(len(layers)) if (step := _best(layers[at], at, 0))]
    heapq.heapify(queue)
    order = []
    while queue:
        step = heapq.heappop(queue)[-1]
        order.append(step)
        layer = layers[step.layer]
        level = layer.layer.precisions.index(step.precision)
        if (following := _best(layer, step.layer, level)) is not None:
            heapq.heappush(queue, _entry(following))
    return tuple(order)


def mix_after(
    layers: Sequence[LayerSensitivity], steps: Sequence[Step]
) -> dict[str, dict[str, str]]:
    """Return the precision of every raised layer's nodes, by component and node.

    Args:
        layers: As measured.
        steps: The first steps of `raising_order`.
    """
    raised: Mapping[int, str] = {step.layer: step.precision for step in steps}
    mix: dict[str, dict[str, str]] = {}
    for at, precision in raised.items():
        uses: Sequence[LayerUse] = layers[at].layer.uses
        for use in uses:
            mix.setdefault(use.component, {})[use.node] = precision
    return mix


def smallest_reaching(count: int, reaches: Callable[[int], bool]) -> int | None:
    """Return the least number of steps that reaches the target, by bisection; None if not even all of them do.

    Where a step may also lower the score, it is a number that reaches the target while one less does not. A higher
    target never gives a smaller number: both searches ask about the same numbers until their answers part.

    Args:
        count: Steps that there are.
        reaches: Says whether the first n steps reach the target; called at most 2 + log₂(count) times.
    """
    if reaches(0):
        return 0
    if count == 0 or not reaches(count):
        return None
    misses, enough = 0, count
    while enough - misses > 1:
        middle = (misses + enough) // 2
        if reaches(middle):
            enough = middle
        else:
            misses = middle
    return enough


def _best(layer: LayerSensitivity, at: int, level: int) -> Step | None:
    """Return a layer's step of most worth from a place on its ladder, or None at the top."""
    now = layer.costs[level]
    steps = [
        Step(
            layer=at,
            precision=cost.precision,
            kl_saved=max(0.0, now.kl - cost.kl),
            bytes_added=cost.bytes - now.bytes,
        )
        for cost in layer.costs[level + 1 :]
    ]
    return max(steps, key=lambda step: step.worth, default=None)


def _entry(step: Step) -> tuple[float, float, int, int, Step]:
    """Return a queue entry: the most worth first, of equals the earlier layer."""
    per_byte, saved = step.worth
    return (-per_byte, -saved, step.layer, step.bytes_added, step)
