"""Float graphs to standard QDQ graphs."""

from __future__ import annotations

from moir_edge.calibration.granularity import PerBlock, PerOutputChannel
from moir_edge.calibration.mixed.graphs import sensitivity
from moir_edge.calibration.mixed.records import LayerSensitivity, PrecisionCost
from moir_edge.calibration.mixed.settings import MixSettings
from moir_edge.calibration.observers import ActivationObserver
from moir_edge.calibration.options import LayerOptions
from moir_edge.calibration.quantize import quantize
from moir_edge.calibration.settings import CalibrationSettings
from moir_edge.calibration.summary import ActivationScale, QuantizationSummary, QuantizedWeight
from moir_edge.calibration.taps import observe

__all__ = [
    "ActivationObserver",
    "ActivationScale",
    "CalibrationSettings",
    "LayerOptions",
    "LayerSensitivity",
    "MixSettings",
    "PerBlock",
    "PerOutputChannel",
    "PrecisionCost",
    "QuantizationSummary",
    "QuantizedWeight",
    "observe",
    "quantize",
    "sensitivity",
]
