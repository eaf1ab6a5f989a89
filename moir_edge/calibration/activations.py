"""Scales of the activations that quantized weights multiply, from statistics: (…, K) → scale (), zero point 0.

One scale for all of it is what TensorRT asks for and ONNX Runtime's `MatMulIntegerToFloat` takes.
"""

from __future__ import annotations

from collections.abc import Mapping

from moir_edge.calibration.formats import LayerFormat
from moir_edge.calibration.grids import Grid
from moir_edge.calibration.observers import ActivationObserver
from moir_edge.calibration.options import LayerOptions
from moir_edge.calibration.patterns import WeightUse
from moir_edge.calibration.ranges import clipped_share, find_range, signal_to_noise_db
from moir_edge.calibration.summary import ActivationScale

__all__ = ["ActivationScales"]


class ActivationScales:
    """Chooses the scale of each activation once, however many weights it multiplies.

    Args:
        observers: Statistics by name of the activation.
        options: How ranges are chosen, and the signal to noise under which an activation gets no scale; for a float
            format less the allowance that it has.
        smoothing: SmoothQuant exponents by activation, for the summary only.
    """

    def __init__(
        self,
        observers: Mapping[str, ActivationObserver],
        options: LayerOptions,
        smoothing: Mapping[str, float],
    ) -> None:
        self._observers = observers
        self._options = options
        self._smoothing = smoothing
        self._scales: dict[tuple[str, Grid], ActivationScale] = {}

    def of(self, use: WeightUse, format_: LayerFormat) -> tuple[ActivationScale | None, str]:
        """Return the scale of a node's activation, or None and the reason, empty where the format asks for none.

        Raises:
            UnsupportedError: An unknown method.
        """
        name, grid = use.activation, format_.activation
        if grid is None:
            return None, ""
        if name not in self._observers or not self._observers[name].tokens:
            return None, "the calibration data never reached it"
        if (name, grid) not in self._scales:
            self._scales[name, grid] = self._choose(name, grid)
        scale = self._scales[name, grid]
        ratio = scale.signal_to_noise_db
        least = self._options.min_snr_db - format_.facts.snr_allowance_db
        if ratio is not None and ratio < least:
            return None, f"8 bits would leave its input under {least:g} dB"
        return scale, ""

    def _choose(self, name: str, grid: Grid) -> ActivationScale:
        observer = self._observers[name]
        limit = find_range(observer, self._options.method, grid)
        ratio = signal_to_noise_db(observer, limit, grid) if observer.largest else None
        return ActivationScale(
            scale=limit / grid.largest,
            clipped_share=clipped_share(observer, limit),
            signal_to_noise_db=ratio,
            smoothing=self._smoothing.get(name),
        )
