"""Which precision each component gets, and how a graph is brought to it."""

from __future__ import annotations

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
            is to leave its own.
    """
    names, overrides = tuple(components), dict(component_precision or {})
    profile = get_target(target)
    check_precision(profile, precision)
    for component, name in overrides.items():
        if component not in names:
            raise UnsupportedError(f"unknown component {component!r}: {closest(component, names)}")
        check_precision(profile, name, component=component)
    router = profile.router_precision
    if overrides.get("router", router) != router:
        raise UnsupportedError(
            f"the router stays in {router}: its look-up decides which tokens match"
        )
    plan = dict.fromkeys(names, precision) | _DEFAULTS.get(precision, {}) | {"router": router}
    plan |= overrides
    return {name: cast(PrecisionName, plan[name]) for name in names}


def calibrated_components(plan: Mapping[str, str], *, has_data: bool) -> tuple[str, ...]:
    """Return the components whose precision is found by running calibration data.

    Args:
        plan: From `plan_precisions`.
        has_data: Whether there are such data.

    Raises:
        UnsupportedError: Data are needed and missing, or given and not needed.
    """
    found = tuple(name for name, precision in plan.items() if precision in _CALIBRATED)
    if found and not has_data:
        raise UnsupportedError(
            f"{plan[found[0]]} needs calibration data; give --calib-data FILE, JSON lines as `compare` takes them "
            "(not the rows that you evaluate on), or take int8-weight-only, which needs none"
        )
    if has_data and not found:
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
) -> QuantizationSummary | None:
    """Bring a float32 graph to a precision; its inputs and outputs stay float32 and int64.

    Args:
        model: Edited in place; under ``int8`` a copy of the graph that was calibrated.
        precision: What its weights become.
        component: Its name in `calibrated`.
        calibrated: Statistics for ``int8``.
        signed: Store 8-bit activations signed, see `moir_edge.calibration.activations`.

    Returns:
        What quantization did to each weight; None for a floating-point precision.
    """
    if precision == "fp16":
        from moir_edge.export.half import to_half

        to_half(model)
    elif precision == "int8":
        return _apply_int8(model, component, calibrated, signed)
    elif precision != "fp32":
        from moir_edge.calibration.weights import quantize_weights

        return quantize_weights(model, precision)
    return None


def _apply_int8(
    model: ir.Model, component: str, calibrated: CalibratedGraphs | None, signed: bool
) -> QuantizationSummary:
    from moir_edge.calibration.activations import quantize_activations

    if calibrated is None:
        raise UnsupportedError("int8 needs statistics from calibration data")
    return quantize_activations(
        model,
        calibrated.observers[component],
        method=calibrated.record["range"],
        signed=signed,
        min_snr_db=calibrated.record["min_snr_db"],
        smoothing=calibrated.smoothing.get(component),
    )
