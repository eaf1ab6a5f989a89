"""Tuning of a retrofitted checkpoint, and balance methods, which keep one modality from taking it over (torch)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moir_edge.lazy import lazy_names

if TYPE_CHECKING:
    from moir_edge.tuning.balancing.allocation import (
        MODES,
        BranchBalance,
        allocation_weight,
        scale_gradient,
    )
    from moir_edge.tuning.balancing.branches import BRANCHES
    from moir_edge.tuning.balancing.frequency import frequency_ratio
    from moir_edge.tuning.balancing.mwam import Mwam
    from moir_edge.tuning.balancing.names import BALANCE_METHODS
    from moir_edge.tuning.run import TuneReport, tune
    from moir_edge.tuning.settings import TuneSettings
    from moir_edge.tuning.unfinished import training_folder

__all__ = [
    "BALANCE_METHODS",
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
        "balancing.allocation": [
            "MODES",
            "BranchBalance",
            "allocation_weight",
            "scale_gradient",
        ],
        "balancing.branches": ["BRANCHES"],
        "balancing.frequency": ["frequency_ratio"],
        "balancing.mwam": ["Mwam"],
        "balancing.names": ["BALANCE_METHODS"],
        "run": ["TuneReport", "tune"],
        "settings": ["TuneSettings"],
        "unfinished": ["training_folder"],
    },
)
