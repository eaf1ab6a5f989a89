"""Decide each component's precision; reject impossible combinations before any long work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from moir_edge.export.precisions import (
    apply_precision,
    calibrated_components,
    choose_int4_method,
    plan_precisions,
)
from moir_edge.precisions import PRECISIONS, PrecisionName
from moir_edge.targets import Target, get_target

if TYPE_CHECKING:
    from moir_edge.calibration import CalibrationSettings, MixSettings, QuantizationSummary
    from moir_edge.calibration.mixed.layers import Quantizer
    from moir_edge.calibration.preparation import CalibratedGraphs

__all__ = ["ExportPlan", "plan_export"]


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """Precisions and methods of one export.

    Attributes:
        target: Device profile.
        precisions: By component.
        fixed: Components whose precision was given by name, which no search may raise.
        int4_method: How INT4 weights are found.
        calibrated: Components that are quantized by statistics of the calibration data.
        calibration: Data and methods; None without data.
        mix: What to measure layer by layer; None for nothing.
    """

    target: Target
    precisions: Mapping[str, PrecisionName]
    fixed: tuple[str, ...]
    int4_method: str
    calibrated: tuple[str, ...]
    calibration: CalibrationSettings | None
    mix: MixSettings | None

    @property
    def on_gpu(self) -> bool:
        """Whether TensorRT will read the graphs, rather than ONNX Runtime on a CPU."""
        return self.target.builder != "onnxruntime"

    @property
    def weights_only(self) -> tuple[str, ...]:
        """The calibrated components of which only weights are quantized."""
        return tuple(
            name for name in self.calibrated if not PRECISIONS[self.precisions[name]].needs_data
        )

    def takes_gpu_form(self, component: str) -> bool:
        """Say whether a component's graph is exported in the GPU's form."""
        return self.on_gpu and PRECISIONS[self.precisions[component]].quantized

    def quantizer(self, calibrated: CalibratedGraphs | None, *, signed: bool) -> Quantizer:
        """Return what brings a component to its precision, some of its nodes to one of their own.

        Args:
            calibrated: Statistics; None where no component needs them.
            signed: Store 8-bit activations signed, as TensorRT asks for.
        """

        def quantizer(
            component: str, model: ir.Model, layer_precisions: Mapping[str, str]
        ) -> QuantizationSummary | None:
            return apply_precision(
                model,
                self.precisions[component],
                component=component,
                calibrated=calibrated,
                signed=signed,
                int4_method=self.int4_method,
                layer_precisions=layer_precisions,
            )

        return quantizer


def plan_export(
    components: Iterable[str],
    *,
    target: str,
    precision: str,
    component_precision: Mapping[str, str] | None = None,
    int4_method: str | None = None,
    calibration: CalibrationSettings | None = None,
    mix: MixSettings | None = None,
) -> ExportPlan:
    """Return the plan of an export.

    Args:
        components: Those of the bundle.
        target: Device profile.
        precision: Of the bundle.
        component_precision: Overrides by component.
        int4_method: How INT4 weights are found; None takes the best there is with the data at hand.
        calibration: Data and methods.
        mix: What to measure layer by layer.

    Raises:
        UnsupportedError: Unknown target, precision, component or method; the target lacks a precision or reads no
            such weights; or calibration data are missing or of no use.
    """
    precisions = plan_precisions(components, target, precision, component_precision)
    has_data = calibration is not None
    method = choose_int4_method(precisions, target, int4_method, has_data=has_data)
    return ExportPlan(
        target=get_target(target),
        precisions=precisions,
        fixed=tuple(component_precision or ()),
        int4_method=method,
        calibrated=calibrated_components(
            precisions, has_data=has_data, int4_method=method, measured=mix is not None
        ),
        calibration=calibration,
        mix=mix,
    )
