"""Which precision each component gets, and how a graph is brought to it."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, cast

import onnx_ir as ir

from moir_edge.errors import UnsupportedError, closest
from moir_edge.targets import check_precision, get_target

if TYPE_CHECKING:
    from moir_edge.calibration import QuantizationSummary
    from moir_edge.calibration.preparation import CalibratedGraphs

__all__ = ["apply_precision", "calibrated_components", "plan_precisions"]

PrecisionName = Literal["fp32", "fp16", "int8", "int8-weight-only", "int4"]

# Components that do not follow the bundle's precision: the router stays exact, a look-up table multiplies nothing, and
# 4 bits cost a vision tower or a table more accuracy than they save bytes.
_DEFAULTS: dict[str, dict[str, str]] = {
    "int8": {"embedding": "int8-weight-only"},
    "int4": {"vision": "int8-weight-only", "embedding": "int8-weight-only"},
}

# Precisions that need to see data.
_CALIBRATED = ("int8",)


def plan_precisions(
    components: Iterable[str],
    target: str,
    precision: str,
    component_precision: Mapping[str, str] | None = None,
) -> dict[str, PrecisionName]:
    """Return the precision of each component.

    Args:
        components: Those of the bundle.
        target: Device profile.
        precision: Of the bundle.
        component_precision: Overrides by component.

    Raises:
        UnsupportedError: Unknown target, precision or component; the target lacks a precision; or the router
            is to leave fp32.
    """
    names, overrides = tuple(components), dict(component_precision or {})
    profile = get_target(target)
    check_precision(profile, precision)
    for component, name in overrides.items():
        if component not in names:
            raise UnsupportedError(f"unknown component {component!r}: {closest(component, names)}")
        check_precision(profile, name, component=component)
    if overrides.get("router", "fp32") != "fp32":
        raise UnsupportedError("the router stays in fp32: its look-up decides which tokens match")
    plan = dict.fromkeys(names, precision) | _DEFAULTS.get(precision, {}) | {"router": "fp32"}
    plan |= overrides
    return {name: cast(PrecisionName, plan[name]) for name in names}


def calibrated_components(
    plan: Mapping[str, str], *, has_data: bool, measured: bool = False
) -> tuple[str, ...]:
    """Return the components whose precision is found by running calibration data.

    Args:
        plan: From `plan_precisions`.
        has_data: Whether there are such data.
        measured: Whether the layers' sensitivity is measured on the data too.

    Raises:
        UnsupportedError: Data are needed and missing, or given and not needed.
    """
    found = tuple(name for name, precision in plan.items() if precision in _CALIBRATED)
    if found and not has_data:
        raise UnsupportedError(
            f"{plan[found[0]]} needs calibration data; give --calib-data FILE, JSON lines as `compare` takes them "
            "(not the rows that you evaluate on), or take int8-weight-only, which needs none"
        )
    if measured and not has_data:
        raise UnsupportedError(
            "sensitivity and target recovery are measured on calibration data; give --calib-data FILE"
        )
    if has_data and not found and not measured:
        raise UnsupportedError(
            f"calibration data are for {' and '.join(_CALIBRATED)}, and no component of this export has that precision; "
            "leave --calib-data out"
        )
    return found


def apply_precision(
    model: ir.Model,
    precision: PrecisionName,
    *,
    component: str = "",
    calibrated: CalibratedGraphs | None = None,
    signed: bool = True,
    layer_precisions: Mapping[str, str] | None = None,
) -> QuantizationSummary | None:
    """Bring a float32 graph to a precision; its inputs and outputs stay float32 and int64.

    Args:
        model: Edited in place; under ``int8`` a copy of the graph that was calibrated.
        precision: What its weights become.
        component: Its name in `calibrated`.
        calibrated: Statistics for ``int8``.
        signed: Store 8-bit activations signed, see `moir_edge.calibration.layers.LayerOptions`.
        layer_precisions: Precision by node, for those that do not take the component's.

    Returns:
        What quantization did to each weight; None for a floating-point precision.
    """
    if precision == "fp16":
        from moir_edge.export.half import to_half

        to_half(model)
        return None
    if precision == "fp32":
        return None
    return _quantize(model, precision, component, calibrated, signed, layer_precisions or {})


def _quantize(
    model: ir.Model,
    precision: PrecisionName,
    component: str,
    calibrated: CalibratedGraphs | None,
    signed: bool,
    layer_precisions: Mapping[str, str],
) -> QuantizationSummary:
    from moir_edge.calibration.layers import LayerOptions, quantize_layers

    # Names of nodes are taken literally, not as patterns.
    patterns = {glob.escape(node): chosen for node, chosen in layer_precisions.items()}
    if precision not in _CALIBRATED:
        options = LayerOptions(signed=signed, precisions=patterns)
        return quantize_layers(model, precision, options=options)
    if calibrated is None:
        raise UnsupportedError(f"{precision} needs statistics from calibration data")
    options = LayerOptions(
        method=calibrated.record["range"],
        signed=signed,
        min_snr_db=calibrated.record["min_snr_db"],
        precisions=patterns,
    )
    return quantize_layers(
        model,
        precision,
        options=options,
        observers=calibrated.observers[component],
        smoothing=calibrated.smoothing.get(component),
    )
