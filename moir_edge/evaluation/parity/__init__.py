"""`bench`: latency of bundles, and parity of their numbers and times, with what runs them as an axis of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moir_edge.lazy import lazy_names

if TYPE_CHECKING:
    from moir_edge.evaluation.parity.gates import BenchBounds
    from moir_edge.evaluation.parity.run import bench
    from moir_edge.evaluation.parity.schema import BenchReport
    from moir_edge.evaluation.parity.settings import BenchSettings

__all__ = ["BenchBounds", "BenchReport", "BenchSettings", "bench"]

__getattr__ = lazy_names(
    __name__,
    {
        "gates": ["BenchBounds"],
        "schema": ["BenchReport"],
        "settings": ["BenchSettings"],
        "run": ["bench"],
    },
)
