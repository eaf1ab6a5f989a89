"""Turn traced graphs into a bundle folder in one precision."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import onnx_ir as ir

from moir_edge.arguments import check_run, given, given_path, instance
from moir_edge.bundle import ComponentEntry, EngineEntry, FusedEntry, Manifest, seal, staged_bundle
from moir_edge.calibration.gpu_form import to_gpu_form
from moir_edge.engines.trtexec import write_build_script
from moir_edge.export.assets import write_assets
from moir_edge.export.components import TracedModel
from moir_edge.export.fused import write_fused
from moir_edge.export.half_range import require_half_range
from moir_edge.export.look_up import token_table
from moir_edge.export.mixing import mark_raised, measure_and_choose
from moir_edge.export.parity import (
    expected_outputs,
    measure_parity,
    require_fp32_parity,
)
from moir_edge.export.settings import ExportPlan, ExportSettings, chosen_settings
from moir_edge.finite import json_text
from moir_edge.graphs.packing import pack_products
from moir_edge.graphs.writing import WrittenGraph, write_graphs
from moir_edge.precisions import PrecisionName
from moir_edge.progress import Progress, silent, single_step
from moir_edge.targets import get_target
from moir_edge.version import __version__
from moir_edge.weights.mapped import trim_memory

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from moir_edge.calibration import QuantizationSummary
    from moir_edge.calibration.mixed.choosing import Mix
    from moir_edge.calibration.preparation import CalibratedGraphs
    from moir_edge.export.settings import ExportOptions

__all__ = ["assemble", "package_versions"]

_PACKAGES = ("torch", "transformers", "onnx", "onnxruntime", "onnxscript", "onnx-ir")


def assemble(
    traced: TracedModel,
    output: str | Path,
    settings: ExportSettings | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
    **options: Unpack[ExportOptions],
) -> Path:
    """Write one bundle from graphs that were traced once.

    Args:
        traced: From `trace_components`; left as it is, so that more bundles can follow.
        output: The bundle folder to be.
        settings: What the bundle is to be; None for an fp32 bundle on a CPU.
        force: Replace a bundle that stands at `output`; engines of it whose graphs are the same are kept.
        progress: Called as ``progress(stage, done, total)``.
        options: Fields of `ExportSettings`, in place of those of `settings`.

    Returns:
        The bundle's folder.

    Raises:
        UnsupportedError: The settings cannot be met, see `ExportSettings`.
        DataError: The calibration data cannot be used.
        NotFiniteError: Torch or a written graph gives a NaN or an infinity.
        ToleranceError: A float32 bundle differs from torch by more than its tolerance, or no mix reaches the target.
        BundleError: `output` exists and may not be replaced.
        EnvironmentProblem: The disk is full or not writable.
    """
    given("traced", instance("traced", traced, TracedModel), "a TracedModel")
    given_path("output", output)
    check_run(progress, force=force)
    plan = chosen_settings(settings, options).plan_of(traced.graphs)
    progress = progress or silent
    with staged_bundle(output, force=force) as folder:
        write_assets(traced.checkpoint, folder)
        calibrated = _calibrate(traced, plan, folder, progress)
        mix = _choose_mix(traced, plan, calibrated, folder, progress)
        written, summaries = _write(traced, plan, calibrated, mix, folder, progress=progress)
        fused = {} if plan.on_gpu else write_fused(traced, written, folder)
        _write_report(folder / "reports" / "quantization.json", summaries)
        manifest = Manifest(
            created_with=package_versions(),
            source=traced.checkpoint.source,
            model=traced.facts,
            target=plan.settings.target,
            precision=cast(PrecisionName, plan.settings.precision),
            router=traced.router_record,
            router_sha256=traced.router_sha256,
            components=_entries(traced, plan, written, fused, folder),
            calibration=_calibration_record(summaries, calibrated, mix),
            notes=traced.checkpoint.notes,
            parity=_parity(traced, plan, folder, progress),
        )
        write_build_script(folder, manifest)
        built = _engines(folder, manifest, Path(output), progress) if plan.settings.engines else ()
        seal(folder, manifest.model_copy(update={"engines": built}))
    return Path(output)


def _engines(
    folder: Path, manifest: Manifest, replaced: Path, progress: Progress
) -> tuple[EngineEntry, ...]:
    """Compile the graphs where the target's engines can be built on any machine.

    Engines of the bundle that is replaced, if one is, are kept where their graphs have not changed.
    """
    if not get_target(manifest.target).builds_ahead_of_time:
        return ()
    from moir_edge.engines import build_engines
    from moir_edge.engines.reuse import EngineStock

    stock = EngineStock.of(replaced)
    return tuple(build_engines(folder, manifest, manifest.target, stock=stock, progress=progress))


def _calibrate(
    traced: TracedModel, plan: ExportPlan, folder: Path, progress: Progress
) -> CalibratedGraphs | None:
    """Run the calibration data where a component needs it; the folder holds the processor already."""
    calibration = plan.settings.calibration
    if calibration is None or not plan.calibrated:
        return None
    from moir_edge.calibration.preparation import calibrate

    return calibrate(
        traced.graphs,
        traced.facts,
        folder,
        calibration,
        components=plan.calibrated,
        weights_only=plan.weights_only,
        progress=progress,
    )


def _choose_mix(
    traced: TracedModel,
    plan: ExportPlan,
    calibrated: CalibratedGraphs | None,
    folder: Path,
    progress: Progress,
) -> Mix | None:
    """Measure the layers and choose their precisions, if that was asked for."""
    if plan.settings.mix is None:
        return None
    return measure_and_choose(traced, plan, calibrated, folder, progress=progress)


def _write(
    traced: TracedModel,
    plan: ExportPlan,
    calibrated: CalibratedGraphs | None,
    mix: Mix | None,
    folder: Path,
    *,
    progress: Progress,
) -> tuple[dict[str, WrittenGraph], dict[str, QuantizationSummary]]:
    """Convert the graphs and write them; what they were converted to is not kept."""
    models, summaries = _convert(traced, plan, calibrated, mix, progress)
    written = write_graphs(models, folder)
    del models
    trim_memory()
    return written, summaries


def _convert(
    traced: TracedModel,
    plan: ExportPlan,
    calibrated: CalibratedGraphs | None,
    mix: Mix | None,
    progress: Progress,
) -> tuple[dict[str, ir.Model], dict[str, QuantizationSummary]]:
    # Where ONNX Runtime is what runs the bundle, activations are stored as its kernels are fast in.
    quantizer = plan.quantizer(calibrated, signed=plan.on_gpu)
    raised = {} if mix is None else mix.precisions
    graphs = traced.graphs if calibrated is None else calibrated.graphs
    models: dict[str, ir.Model] = {}
    summaries: dict[str, QuantizationSummary] = {}
    for done, (name, graph) in enumerate(graphs.items()):
        progress("convert weights", done, len(graphs))
        models[name] = graph.clone()
        own = raised.get(name, {})
        summary = quantizer(name, models[name], own)
        if summary is not None:
            summaries[name] = mark_raised(summary, own)
        if plan.takes_gpu_form(name):
            to_gpu_form(models[name])
        if not plan.on_gpu:
            pack_products(models[name])
    progress("convert weights", len(graphs), len(graphs))
    return models, summaries


def _calibration_record(
    summaries: Mapping[str, QuantizationSummary],
    calibrated: CalibratedGraphs | None,
    mix: Mix | None,
) -> dict[str, Any] | None:
    """Return the manifest's entry: what became of each component, and the data that decided it."""
    record = {name: _digest(summary) for name, summary in summaries.items()}
    if calibrated is not None:
        record["data"] = dict(calibrated.record)
    if mix is not None:
        record["mix"] = mix.digest
    return record or None


def _write_report(path: Path, summaries: Mapping[str, QuantizationSummary]) -> None:
    """Write what became of every layer, if anything was quantized."""
    if not summaries:
        return
    path.parent.mkdir(exist_ok=True)
    record = {name: summary.to_dict() for name, summary in summaries.items()}
    # One line: with a line per figure the layers' table would weigh 3 % of a small model.
    path.write_text(json_text(record, separators=(",", ":")) + "\n", encoding="utf-8")


def _digest(summary: QuantizationSummary) -> dict[str, Any]:
    """Return what the manifest keeps of a summary: counts, the worst weight, and the reasons for leaving some alone."""
    record = summary.to_dict()
    del record["weights"]
    reasons = {weight.reason for weight in summary.weights if weight.reason}
    return {**record, "reasons": sorted(reasons)}


def _entries(
    traced: TracedModel,
    plan: ExportPlan,
    written: Mapping[str, WrittenGraph],
    fused: Mapping[str, FusedEntry],
    folder: Path,
) -> dict[str, ComponentEntry]:
    return {
        name: ComponentEntry(
            graph=graph.graph,
            data=graph.data,
            structure_sha256=graph.structure_sha256,
            weights_sha256=graph.weights_sha256,
            precision=plan.precisions[name],
            gpu_form=plan.takes_gpu_form(name),
            fused=fused.get(name),
            tensor_bytes=graph.tensor_bytes,
            weight_bytes=graph.weight_bytes,
            operators=graph.operators,
            inputs=traced.specs[name].inputs,
            outputs=traced.specs[name].outputs,
            table=token_table(folder / graph.graph) if name == "embedding" else None,
        )
        for name, graph in written.items()
    }


def _parity(
    traced: TracedModel, plan: ExportPlan, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Measure the written graphs against torch, keep the figures in ``reports/parity.json`` too."""
    bound = plan.parity_bound
    with single_step(progress, "parity"):
        require_half_range(traced.reference.reached, plan.computed_in_half)
        figures = measure_parity(traced, folder, plan.precisions)
        if bound is not None:
            require_fp32_parity(figures, expected_outputs(traced), bound)
    figures["rtol"] = bound
    reports = folder / "reports"
    reports.mkdir(exist_ok=True)
    (reports / "parity.json").write_text(json_text(figures, indent=1) + "\n", encoding="utf-8")
    return figures


def package_versions() -> dict[str, str]:
    """Return package name to version for what shaped the bundle, moir-edge first."""
    return {"moir-edge": __version__} | {
        name: importlib.metadata.version(name) for name in _PACKAGES
    }
