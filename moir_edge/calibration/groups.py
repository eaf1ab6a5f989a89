"""Groups of layers that are watched together: as many as the memory for statistics holds, in graph order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from moir_edge.calibration.observers import ActivationObserver
from moir_edge.calibration.taps import GraphObservers, new_observers
from moir_edge.limits import STATISTICS_BYTES

__all__ = ["Observers", "group_observers"]

Observers = dict[str, GraphObservers]
"""Name of a component to the observers of its activations."""

# Vectors that one run gives to an activation: a prompt with a picture or two.
_TOKENS = 1024


def group_observers(
    graphs: Mapping[str, ir.Model], components: Mapping[str, bool], budget: int | None = None
) -> list[Observers]:
    """Return new observers in groups, each for one pass over the rows; one group at least.

    Args:
        graphs: Float graphs.
        components: Those to watch; True to gather Σ x xᵀ too.
        budget: Bytes that a group may take, unless one activation takes more; None for `STATISTICS_BYTES`.
    """
    limit = STATISTICS_BYTES if budget is None else budget
    groups: list[Observers] = [{}]
    taken = 0
    for component, name, observer in _observers(graphs, components):
        size = _size(observer)
        if taken and taken + size > limit:
            groups.append({})
            taken = 0
        groups[-1].setdefault(component, {})[name] = observer
        taken += size
    return groups


def _observers(
    graphs: Mapping[str, ir.Model], components: Mapping[str, bool]
) -> Iterator[tuple[str, str, ActivationObserver]]:
    """Yield all observers in the order in which the graphs run."""
    for component in graphs:
        if component in components:
            gram = components[component]
            for name, observer in new_observers(graphs[component].graph, gram=gram).items():
                yield component, name, observer


def _size(observer: ActivationObserver) -> int:
    """Return about how much memory an activation takes: its statistics, and its values in one run."""
    channels = len(observer.channel_max)
    gram = observer.gram
    statistics = 0 if gram is None else gram.nbytes
    return statistics + channels * _TOKENS * np.dtype(np.float32).itemsize
