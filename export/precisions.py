"""Which precision each component gets, and how a graph is brought to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, cast

import onnx_ir as ir

from moir_edge.errors import UnsupportedError, closest
from moir_edge.targets import check_precision, get_target

if TYPE_CHECKING:
    from moir_edge.calibration import QuantizationSummary

__all__ = ["apply_precision", "plan_precisions"]

PrecisionName = Literal["fp32", "fp16", "int8-weight-only", "int4"]

# Components that do not follow the bundle's precision: the router stays exact, and 4 bits cost a vision
# tower or a look-up table more accuracy than they save bytes.
_DEFAULTS: dict[str, dict[str, str]] = {
    "int4": {"vision": "int8-weight-only", "embedding": "int8-weight-only"},
}


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


def apply_precision(model: ir.Model, precision: PrecisionName) -> QuantizationSummary | None:
    """Bring a float32 graph to a precision; its inputs and outputs stay float32 and int64.

    Args:
        model: Edited in place.
        precision: What its weights become.

    Returns:
        What quantization did to each weight; None for a floating-point precision.
    """
    if precision == "fp16":
        from moir_edge.export.half import to_half

        to_half(model)
    elif precision != "fp32":
        from moir_edge.calibration.weights import quantize_weights

        return quantize_weights(model, precision)
    return None
