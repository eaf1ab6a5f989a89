"""Turn traced graphs into a bundle folder in one precision."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import onnx_ir as ir

from moir_edge import __version__
from moir_edge.bundle import ComponentEntry, EngineEntry, Manifest, seal, staged_bundle
from moir_edge.export.assets import write_assets
from moir_edge.export.components import Progress, TracedModel, silent
from moir_edge.export.gpu_form import takes_gpu_form, to_gpu_form
from moir_edge.export.parity import measure_parity, require_fp32_parity
from moir_edge.export.precisions import (
    PrecisionName,
    apply_precision,
    calibrated_components,
    choose_int4_method,
    plan_precisions,
)
from moir_edge.export.trtexec import write_build_script
from moir_edge.export.writing import WrittenGraph, write_graphs
from moir_edge.targets import get_target

if TYPE_CHECKING:
    from moir_edge.calibration import CalibrationSettings, QuantizationSummary
    from moir_edge.calibration.preparation import CalibratedGraphs

__all__ = ["assemble", "package_versions"]

_PACKAGES = ("torch", "transformers", "onnx", "onnxruntime", "onnxscript", "onnx-ir")


def assemble(
    traced: TracedModel,
    output: str | Path,
    *,
    target: str = "cpu",
    precision: str = "fp32",
    component_precision: Mapping[str, str] | None = None,
    calibration: CalibrationSettings | None = None,
    engines: bool = True,
    int4_method: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write one bundle from graphs that were traced once.

    Args:
        traced: From `trace_components`; left as it is, so that more bundles can follow.
        output: The bundle folder to be.
        target: Device profile.
        precision: Precision of the bundle.
        component_precision: Overrides by component.
        calibration: Data and methods for ``int8`` and ``fp8``, and for ``int4`` by a method that goes by data.
        int4_method: How INT4 weights are found, see `moir_edge.calibration.weight_methods`; None takes the best
            there is with the data at hand.
        engines: Compile engines too, where the target's can be built on any machine.
        force: Replace a bundle that stands at `output`; engines of it whose graphs are the same are kept.
        progress: Called as ``progress(stage, done, total)``.

    Returns:
        The bundle's folder.

    Raises:
        UnsupportedError: Unknown target, precision or component, the target lacks the precision, or calibration
            data are missing or of no use.
        DataError: The calibration data cannot be used.
        ToleranceError: A float32 bundle differs from torch by more than its tolerance.
        BundleError: `output` exists and may not be replaced.
        EnvironmentProblem: The disk is full or not writable.
    """
    plan = plan_precisions(traced.graphs, target, precision, component_precision)
    method = choose_int4_method(plan, target, int4_method, has_data=calibration is not None)
    report = progress or silent
    with staged_bundle(output, force=force) as folder:
        write_assets(traced.checkpoint, folder)
        calibrated = _calibrate(traced, plan, method, folder, calibration, report)
        models, summaries = _convert(traced, plan, method, calibrated, target, report)
        written = write_graphs(models, folder)
        _write_report(folder / "reports" / "quantization.json", summaries)
        manifest = Manifest(
            created_with=package_versions(),
            source=traced.checkpoint.source,
            model=traced.facts,
            target=target,
            precision=cast(PrecisionName, precision),
            router=traced.router_record,
            router_sha256=traced.router_sha256,
            components=_entries(traced, plan, written, target),
            calibration=_calibration_record(summaries, calibrated),
            parity=_parity(traced, plan, folder, report),
        )
        write_build_script(folder, manifest)
        built = _engines(folder, manifest, Path(output), report) if engines else ()
        seal(folder, manifest.model_copy(update={"engines": built}))
    return Path(output)


def _engines(
    folder: Path, manifest: Manifest, replaced: Path, report: Progress
) -> tuple[EngineEntry, ...]:
    """Compile the graphs where the target's engines can be built on any machine.

    Engines of the bundle that is replaced, if one is, are kept where their graphs have not changed.
    """
    if not get_target(manifest.target).builds_ahead_of_time:
        return ()
    from moir_edge.export.engines import build_engines
    from moir_edge.export.reuse import EngineStock

    stock = EngineStock.of(replaced)
    return tuple(build_engines(folder, manifest, manifest.target, stock=stock, progress=report))


def _calibrate(
    traced: TracedModel,
    plan: Mapping[str, PrecisionName],
    int4_method: str,
    folder: Path,
    settings: CalibrationSettings | None,
    report: Progress,
) -> CalibratedGraphs | None:
    """Run the calibration data where a component needs it; the folder holds the processor already."""
    components = calibrated_components(plan, has_data=settings is not None, int4_method=int4_method)
    if settings is None:
        return None
    from moir_edge.calibration.preparation import calibrate

    return calibrate(
        traced.graphs,
        traced.facts,
        folder,
        settings,
        components=components,
        weights_only=[name for name in components if plan[name] in ("int4", "int8-weight-only")],
        progress=report,
    )


def _convert(
    traced: TracedModel,
    plan: Mapping[str, PrecisionName],
    int4_method: str,
    calibrated: CalibratedGraphs | None,
    target: str,
    report: Progress,
) -> tuple[dict[str, ir.Model], dict[str, QuantizationSummary]]:
    profile = get_target(target)
    # Where ONNX Runtime is what runs the bundle, activations are stored as its kernels are fast in.
    signed = profile.builder != "onnxruntime"
    graphs = traced.graphs if calibrated is None else calibrated.graphs
    models: dict[str, ir.Model] = {}
    summaries: dict[str, QuantizationSummary] = {}
    for done, (name, graph) in enumerate(graphs.items()):
        report("convert weights", done, len(plan))
        models[name] = graph.clone()
        summary = apply_precision(
            models[name],
            plan[name],
            component=name,
            calibrated=calibrated,
            signed=signed,
            int4_method=int4_method,
        )
        if summary is not None:
            summaries[name] = summary
        if takes_gpu_form(profile, plan[name]):
            to_gpu_form(models[name])
    report("convert weights", len(plan), len(plan))
    return models, summaries


def _calibration_record(
    summaries: Mapping[str, QuantizationSummary], calibrated: CalibratedGraphs | None
) -> dict[str, Any] | None:
    """Return the manifest's entry: what became of each component, and the data that decided it."""
    record = {name: _digest(summary) for name, summary in summaries.items()}
    if calibrated is not None:
        record["data"] = dict(calibrated.record)
    return record or None


def _write_report(path: Path, summaries: Mapping[str, QuantizationSummary]) -> None:
    """Write what became of every layer, if anything was quantized."""
    if not summaries:
        return
    path.parent.mkdir(exist_ok=True)
    record = {name: summary.to_dict() for name, summary in summaries.items()}
    # One line: with a line per figure the layers' table would weigh 3 % of a small model.
    path.write_text(json.dumps(record, separators=(",", ":")) + "\n", encoding="utf-8")


def _digest(summary: QuantizationSummary) -> dict[str, Any]:
    """Return what the manifest keeps of a summary: counts, the worst weight, and the reasons for leaving some alone."""
    record = summary.to_dict()
    del record["weights"]
    reasons = {weight.reason for weight in summary.weights if weight.reason}
    return {**record, "reasons": sorted(reasons)}


def _entries(
    traced: TracedModel,
    plan: Mapping[str, PrecisionName],
    written: Mapping[str, WrittenGraph],
    target: str,
) -> dict[str, ComponentEntry]:
    profile = get_target(target)
    return {
        name: ComponentEntry(
            graph=graph.graph,
            data=graph.data,
            structure_sha256=graph.structure_sha256,
            weights_sha256=graph.weights_sha256,
            precision=plan[name],
            gpu_form=takes_gpu_form(profile, plan[name]),
            tensor_bytes=graph.tensor_bytes,
            weight_bytes=graph.weight_bytes,
            operators=graph.operators,
            inputs=traced.specs[name].inputs,
            outputs=traced.specs[name].outputs,
        )
        for name, graph in written.items()
    }


def _parity(
    traced: TracedModel, plan: Mapping[str, PrecisionName], folder: Path, report: Progress
) -> dict[str, Any]:
    """Measure the written graphs against torch, keep the figures in ``reports/parity.json`` too."""
    report("parity", 0, 1)
    figures = measure_parity(traced, folder, plan)
    if set(plan.values()) == {"fp32"}:
        require_fp32_parity(figures)
    reports = folder / "reports"
    reports.mkdir(exist_ok=True)
    (reports / "parity.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    report("parity", 1, 1)
    return figures


def package_versions() -> dict[str, str]:
    """Return package name to version for what shaped the bundle, moir-edge first."""
    return {"moir-edge": __version__} | {
        name: importlib.metadata.version(name) for name in _PACKAGES
    }
