"""From bundles to figures to a report: data rows, metrics, measuring, gates. Imported as `moir_edge.benchmarks`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if __name__ == "benchmarks":
    raise ImportError(
        "this folder is the package moir_edge.benchmarks: write `import moir_edge.benchmarks`, "
        "not `import benchmarks`"
    )

if TYPE_CHECKING:
    from moir_edge.benchmarks.comparison import compare
    from moir_edge.benchmarks.data import TASKS, Row, read_rows
    from moir_edge.benchmarks.gates import GateBounds
    from moir_edge.benchmarks.schema import ComparisonReport

__all__ = ["TASKS", "ComparisonReport", "GateBounds", "Row", "compare", "read_rows"]

_HOME_OF = {
    "TASKS": "data",
    "ComparisonReport": "schema",
    "GateBounds": "gates",
    "Row": "data",
    "compare": "comparison",
    "read_rows": "data",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for, so that importing the package stays cheap."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
