"""Mixed precision in an export: measure, choose, say which layers were raised, and write the report."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from moir_edge.export.components import Progress, TracedModel

if TYPE_CHECKING:
    from moir_edge.calibration import CalibrationSettings, MixSettings, QuantizationSummary
    from moir_edge.calibration.mixed.choosing import Mix
    from moir_edge.calibration.mixed.layers import Quantizer
    from moir_edge.calibration.preparation import CalibratedGraphs

__all__ = ["mark_raised", "measure_and_choose"]

_RAISED = "raised to reach the target recovery"


def measure_and_choose(
    traced: TracedModel,
    plan: Mapping[str, str],
    calibrated: CalibratedGraphs | None,
    quantizer: Quantizer,
    folder: Path,
    settings: tuple[CalibrationSettings, MixSettings],
    *,
    fixed: Collection[str],
    report: Progress,
    float_bytes: int = 4,
) -> Mix:
    """Measure the layers' sensitivity, choose a mix if there is a target, and write the report into a bundle.

    Args:
        traced: The model.
        plan: Precision of each component.
        calibrated: Its graphs as they will be quantized; None for those that were traced.
        quantizer: How a component is quantized.
        folder: The bundle to be, with the processor's files.
        settings: Data, and what to measure on them.
        fixed: Components whose precision was given.
        report: Called as ``report(stage, done, total)``.
        float_bytes: What a weight that stays float takes in the bundle.
    """
    from moir_edge.calibration.mixed.choosing import MixInputs, choose_mix
    from moir_edge.calibration.mixed.report import sensitivity_plot

    inputs = MixInputs(
        graphs=traced.graphs if calibrated is None else calibrated.graphs,
        facts=traced.facts,
        plan=plan,
        fixed=fixed,
        processor_folder=folder,
        quantizer=quantizer,
        float_bytes=float_bytes,
    )
    mix = choose_mix(inputs, *settings, progress=report)
    reports = folder / "reports"
    reports.mkdir(exist_ok=True)
    content = json.dumps(mix.record, separators=(",", ":"))
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
