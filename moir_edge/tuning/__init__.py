"""Tuning of a retrofitted checkpoint, and MWAM, which balances the modalities while training (torch)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moir_edge.lazy import lazy_names

if TYPE_CHECKING:
    from moir_edge.tuning.balance import MODES, BranchBalance, allocation_weight, scale_gradient
    from moir_edge.tuning.frequency import frequency_ratio
    from moir_edge.tuning.mwam import BRANCHES, Mwam
    from moir_edge.tuning.run import TuneReport, tune
    from moir_edge.tuning.settings import TuneSettings
    from moir_edge.tuning.unfinished import training_folder

__all__ = [
    "BRANCHES",
    "MODES",
    "BranchBalance",
    "Mwam",
    "TuneReport",
    "TuneSettings",
    "allocation_weight",
    "frequency_ratio",
    "scale_gradient",
    "training_folder",
    "tune",
]

__getattr__ = lazy_names(
    __name__,
    {
        "mwam": ["BRANCHES", "Mwam"],
        "balance": ["MODES", "BranchBalance", "allocation_weight", "scale_gradient"],
        "frequency": ["frequency_ratio"],
        "run": ["TuneReport", "tune"],
        "settings": ["TuneSettings"],
        "unfinished": ["training_folder"],
    },
)
