"""Float graphs to standard QDQ graphs; imported as `moir_edge.calibration`."""

from __future__ import annotations

if __name__ != "moir_edge.calibration":
    raise ImportError(f"import this package as moir_edge.calibration, not as {__name__}")

from moir_edge.calibration.granularity import PerBlock, PerOutputChannel
from moir_edge.calibration.layers import LayerOptions
from moir_edge.calibration.observers import ActivationObserver
from moir_edge.calibration.quantize import quantize
from moir_edge.calibration.settings import CalibrationSettings
from moir_edge.calibration.summary import ActivationScale, QuantizationSummary, QuantizedWeight
from moir_edge.calibration.taps import observe

__all__ = [
    "ActivationObserver",
    "ActivationScale",
    "CalibrationSettings",
    "LayerOptions",
    "PerBlock",
    "PerOutputChannel",
    "QuantizationSummary",
    "QuantizedWeight",
    "observe",
    "quantize",
]
