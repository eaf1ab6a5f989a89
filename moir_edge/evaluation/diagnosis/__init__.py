"""Modality dominance of a model: scores under degradation, Shapley shares, perceptual scores, attention by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moir_edge.lazy import lazy_names

if TYPE_CHECKING:
    from moir_edge.evaluation.diagnosis.run import diagnose, diagnose_rows
    from moir_edge.evaluation.diagnosis.schema import CandidateDiagnosis, DiagnosisReport
    from moir_edge.evaluation.diagnosis.settings import DiagnoseSettings

__all__ = [
    "CandidateDiagnosis",
    "DiagnoseSettings",
    "DiagnosisReport",
    "diagnose",
    "diagnose_rows",
]

__getattr__ = lazy_names(
    __name__,
    {
        "settings": ["DiagnoseSettings"],
        "schema": ["DiagnosisReport", "CandidateDiagnosis"],
        "run": ["diagnose", "diagnose_rows"],
    },
)
