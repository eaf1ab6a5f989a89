"""From bundles to figures to a report: data rows, metrics, measuring, gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moir_edge.lazy import lazy_names

if TYPE_CHECKING:
    from moir_edge.data.rows import TASKS, Row, read_rows
    from moir_edge.evaluation.bench import BenchBounds, BenchReport, BenchSettings, bench
    from moir_edge.evaluation.compare.gates import GateBounds
    from moir_edge.evaluation.compare.run import compare
    from moir_edge.evaluation.compare.schema import ComparisonReport
    from moir_edge.evaluation.diagnose import DiagnoseSettings, DiagnosisReport, diagnose

__all__ = [
    "TASKS",
    "BenchBounds",
    "BenchReport",
    "BenchSettings",
    "ComparisonReport",
    "DiagnoseSettings",
    "DiagnosisReport",
    "GateBounds",
    "Row",
    "bench",
    "compare",
    "diagnose",
    "read_rows",
]

__getattr__ = lazy_names(
    __name__,
    {
        "TASKS": "data",
        "BenchBounds": "parity",
        "BenchReport": "parity",
        "BenchSettings": "parity",
        "ComparisonReport": "schema",
        "DiagnoseSettings": "diagnosis",
        "DiagnosisReport": "diagnosis",
        "GateBounds": "gates",
        "Row": "data",
        "bench": "parity",
        "compare": "comparison",
        "diagnose": "diagnosis",
        "read_rows": "data",
    },
)
