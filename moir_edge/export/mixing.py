"""Mixed precision in an export: measure, choose, say which layers were raised, and write the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from moir_edge.export.components import TracedModel
from moir_edge.export.settings import ExportPlan
from moir_edge.finite import json_text
from moir_edge.progress import Progress

if TYPE_CHECKING:
    from moir_edge.calibration import QuantizationSummary
    from moir_edge.calibration.mixed.choosing import Mix
    from moir_edge.calibration.preparation import CalibratedGraphs

__all__ = ["mark_raised", "measure_and_choose"]

_RAISED = "raised to reach the target recovery"


def measure_and_choose(
    traced: TracedModel,
    plan: ExportPlan,
    calibrated: CalibratedGraphs | None,
    folder: Path,
    *,
    progress: Progress,
) -> Mix:
    """Measure the layers' sensitivity, choose a mix if there is a target, and write the report into a bundle.

    Args:
        traced: The model.
        plan: With data, and with what to measure on them.
        calibrated: Its graphs as they will be quantized; None for those that were traced.
        folder: The bundle to be, with the processor's files.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        ValueError: There is nothing to measure.
    """
    calibration, wanted = plan.settings.calibration, plan.settings.mix
    if calibration is None or wanted is None:
        raise ValueError("the plan measures nothing")
    from moir_edge.calibration.mixed.choosing import MixInputs, choose_mix
    from moir_edge.calibration.mixed.report import sensitivity_plot

    inputs = MixInputs(
        graphs=traced.graphs if calibrated is None else calibrated.graphs,
        facts=traced.facts,
        plan=plan.precisions,
        fixed=plan.fixed,
        processor_folder=folder,
        # ONNX Runtime runs the trials, and is fast in unsigned activations: the same numbers.
        quantizer=plan.quantizer(calibrated, signed=False),
        float_bytes=2 if plan.on_gpu else 4,
    )
    mix = choose_mix(inputs, calibration, wanted, progress=progress)
    reports = folder / "reports"
    reports.mkdir(exist_ok=True)
    content = json_text(mix.record, separators=(",", ":"))
    (reports / "sensitivity.json").write_text(content + "\n", encoding="utf-8")
    (reports / "sensitivity.svg").write_text(sensitivity_plot(mix.record), encoding="utf-8")
    return mix


def mark_raised(summary: QuantizationSummary, raised: Mapping[str, str]) -> QuantizationSummary:
    """Return a summary that gives the target as the reason of the layers that were raised for it.

    Args:
        summary: Of one component.
        raised: Its raised nodes and their precisions.
    """
    weights = [
        replace(weight, reason=_RAISED) if weight.node in raised else weight
        for weight in summary.weights
    ]
    return replace(summary, weights=tuple(weights))
