"""Measure candidates: one kernel, and `compare`, `bench` and `diagnose` on top of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moir_edge.lazy import lazy_names

if TYPE_CHECKING:
    from moir_edge.evaluation.comparison.gates import GateBounds
    from moir_edge.evaluation.comparison.run import compare
    from moir_edge.evaluation.comparison.schema import ComparisonReport
    from moir_edge.evaluation.comparison.settings import CompareSettings
    from moir_edge.evaluation.diagnosis import DiagnoseSettings, DiagnosisReport, diagnose
    from moir_edge.evaluation.parity import BenchBounds, BenchReport, BenchSettings, bench

__all__ = [
    "BenchBounds",
    "BenchReport",
    "BenchSettings",
    "CompareSettings",
    "ComparisonReport",
    "DiagnoseSettings",
    "DiagnosisReport",
    "GateBounds",
    "bench",
    "compare",
    "diagnose",
]

__getattr__ = lazy_names(
    __name__,
    {
        "parity": ["BenchBounds", "BenchReport", "BenchSettings", "bench"],
        "comparison.schema": ["ComparisonReport"],
        "comparison.settings": ["CompareSettings"],
        "diagnosis": ["DiagnoseSettings", "DiagnosisReport", "diagnose"],
        "comparison.gates": ["GateBounds"],
        "comparison.run": ["compare"],
    },
)
