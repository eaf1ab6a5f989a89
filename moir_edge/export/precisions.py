"""Choose each component's precision, and convert a graph to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import onnx_ir as ir

from moir_edge.errors import UnsupportedError, closest
from moir_edge.precisions import (
    FP16,
    FP32,
    HEAD,
    INT4,
    INT8_WEIGHT_ONLY,
    PRECISIONS,
    PrecisionName,
)
from moir_edge.targets import check_precision, get_target

if TYPE_CHECKING:
    from moir_edge.calibration import LayerOptions, QuantizationSummary
    from moir_edge.calibration.preparation import CalibratedGraphs

__all__ = [
    "apply_precision",
    "calibrated_components",
    "choose_int4_block_size",
    "choose_int4_method",
    "plan_head",
    "plan_precisions",
]


_HEADS = (FP32, INT8_WEIGHT_ONLY, INT4)


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
        component_precision: Overrides by component; that of `HEAD` is left to `plan_head`.

    Raises:
        UnsupportedError: Unknown target, precision or component; the target lacks a precision; or the router
            is to leave its own.
    """
    names, overrides = tuple(components), dict(component_precision or {})
    profile = get_target(target)
    check_precision(profile, precision)
    overrides.pop(HEAD, None)
    for component, name in overrides.items():
        if component not in names:
            raise UnsupportedError(
                f"unknown component {component!r}: {closest(component, (*names, HEAD))}"
            )
        check_precision(profile, name, component=component)
    router = profile.router_precision
    routers = (router,) if profile.sm is None else (router, FP16)
    if overrides.get("router", router) not in routers:
        raise UnsupportedError(
            "the router stays in floating point: its look-up decides which tokens match, and its weights are the fewest of all; "
            f"it takes {router}, or fp16 on a GPU, not {overrides['router']}"
        )
    towers = PRECISIONS[precision].towers or precision
    # The router stays exact.
    kept = {"vision": towers, "embedding": towers, "router": router}
    plan = dict.fromkeys(names, precision) | kept | overrides
    return {name: cast(PrecisionName, plan[name]) for name in names}


def plan_head(
    plan: Mapping[str, str], target: str, component_precision: Mapping[str, str] | None = None
) -> PrecisionName | None:
    """Return the precision that the head of the decoder is given by name, or None.

    Args:
        plan: From `plan_precisions`.
        target: Device profile.
        component_precision: Overrides by component.

    Raises:
        UnsupportedError: The target lacks the precision, the head does not take it, or the decoder is not quantized.
    """
    name = (component_precision or {}).get(HEAD)
    if name is None:
        return None
    check_precision(get_target(target), name, component=HEAD)
    if name not in _HEADS:
        *others, last = _HEADS
        raise UnsupportedError(
            f"the head is {', '.join(others)} or {last}, not {name}: only its weight is made narrow"
        )
    if not PRECISIONS[plan["decoder"]].quantized:
        raise UnsupportedError(
            f"the head has a precision of its own in a quantized decoder only, and this one is {plan['decoder']}; "
            f"leave `settings.component_precision={{'{HEAD}': '{name}'}}` out, or quantize the decoder"
        )
    return cast(PrecisionName, name)


def choose_int4_method(
    plan: Mapping[str, str], target: str, method: str | None, *, has_data: bool
) -> str:
    """Return how INT4 weights are found.

    Args:
        plan: From `plan_precisions`.
        target: Device profile.
        method: What was asked for; None takes the best there is with the data at hand.
        has_data: Whether there are calibration data.

    Raises:
        UnsupportedError: An unknown method, one that no component takes, or one whose weights the target's runtime
            does not read.
    """
    from moir_edge.calibration.methods.registry import METHODS, default_method, get_method

    if method is None:
        return default_method(has_data=has_data)
    chosen = get_method(method)
    if INT4 not in plan.values():
        raise UnsupportedError(
            f"int4 method {method} given, and no component of this export is int4; leave `settings.int4_method` out"
        )
    if not chosen.symmetric and get_target(target).builder != "onnxruntime":
        others = ", ".join(name for name, one in METHODS.items() if one.symmetric)
        raise UnsupportedError(
            f"{method} gives INT4 weights zero points, which TensorRT does not read; for {target} take {others}"
        )
    return method


def choose_int4_block_size(plan: Mapping[str, str], size: int | None) -> int:
    """Return how many rows of an INT4 weight share a scale.

    Args:
        plan: From `plan_precisions`.
        size: What was asked for; None takes 32.

    Raises:
        ShapeError: A size that the runtimes' kernels do not take.
        UnsupportedError: No component takes one.
    """
    from moir_edge.calibration.granularity import PerBlock, check_block_size

    if size is None:
        return PerBlock().block_size
    check_block_size(size, "`settings.int4_block_size`")
    if INT4 not in plan.values():
        raise UnsupportedError(
            f"`settings.int4_block_size={size}` given, and no component of this export is int4; leave it out"
        )
    return size


def calibrated_components(
    plan: Mapping[str, str],
    *,
    has_data: bool,
    int4_method: str = "rtn",
    measured: bool = False,
) -> tuple[str, ...]:
    """Return the components whose weights or activations are quantized by running calibration data.

    Args:
        plan: From `plan_precisions`.
        has_data: Whether there are such data.
        int4_method: From `choose_int4_method`.
        measured: Whether the layers' sensitivity is measured on the data too.

    Raises:
        UnsupportedError: Data are needed and missing, or given and not needed.
    """
    from moir_edge.calibration.methods.registry import METHODS

    by_data = [name for name, method in METHODS.items() if method.needs_data]
    always = [name for name, facts in PRECISIONS.items() if facts.needs_data]
    calibrated = (*always, *([INT4] if int4_method in by_data else []))
    needing = [name for name, precision in plan.items() if precision in calibrated]
    if needing and not has_data:
        what, other = plan[needing[0]], INT8_WEIGHT_ONLY
        if what == INT4:
            what, other = f"int4 by {int4_method}", "`settings.int4_method='rtn'`"
        raise UnsupportedError(
            f"{what} needs calibration data; give `calibration.data=FILE`, JSON lines as `compare` takes them "
            f"(not the rows that you evaluate on), or take {other}, which needs none"
        )
    if measured and not has_data:
        raise UnsupportedError(
            "sensitivity and target recovery are measured on calibration data; give `calibration.data=FILE`"
        )
    if not has_data:
        return ()
    # Weights in 8 bits need no data, but data bring their error down.
    refined = [
        name
        for name, precision in plan.items()
        if precision == INT8_WEIGHT_ONLY and name != "embedding"
    ]
    if not needing and not refined and not measured:
        raise UnsupportedError(
            "calibration data are for quantized weights and activations, and this export quantizes no component; "
            "leave `calibration.data` out"
        )
    return tuple(name for name in plan if name in needing or name in refined)


def apply_precision(
    model: ir.Model,
    precision: PrecisionName,
    *,
    component: str = "",
    calibrated: CalibratedGraphs | None = None,
    stored_only: bool = False,
    options: LayerOptions | None = None,
) -> QuantizationSummary | None:
    """Bring a float32 graph to a precision; its inputs and outputs stay float32 and int64.

    Args:
        model: Edited in place; under ``int8`` and ``fp8`` a copy of the graph that was calibrated.
        precision: What its weights become.
        component: Its name in `calibrated`.
        calibrated: Statistics, for ``int8``, ``fp8`` and for int4 methods that go by data.
        stored_only: Let half precision be what weights are stored in, and compute in float32.
        options: Of the layers; how ranges of activations are chosen comes from `calibrated`.

    Returns:
        What quantization did to each weight; None for a floating-point precision.
    """
    if stored_only and PRECISIONS[precision].rounding:
        from moir_edge.calibration.narrow_storage import store_narrow

        store_narrow(model, ir.DataType[PRECISIONS[precision].storage])
        return None
    if precision == FP16:
        from moir_edge.graphs.half import to_half

        to_half(model)
        return None
    if precision == FP32:
        return None
    from moir_edge.calibration.layers import LayerOptions, quantize_layers

    options = options or LayerOptions()
    if calibrated is None or component not in calibrated.observers:
        if PRECISIONS[precision].needs_data:
            raise UnsupportedError(f"{precision} needs statistics from calibration data")
        return quantize_layers(model, precision, options=options)
    options = replace(
        options,
        method=calibrated.record["range"],
        min_snr_db=calibrated.record["min_snr_db"],
    )
    return quantize_layers(
        model,
        precision,
        options=options,
        observers=calibrated.observers[component],
        smoothing=calibrated.smoothing.get(component),
    )
