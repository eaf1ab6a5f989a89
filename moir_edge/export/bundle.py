"""`export_bundle`: from a checkpoint to a bundle in one call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from moir_edge.bundle import COMPONENTS, check_bundle_output
from moir_edge.checkpoint import load_checkpoint
from moir_edge.export.assembly import assemble
from moir_edge.export.components import trace_components
from moir_edge.export.parity import PARITY_RTOL, check_parity_rtol
from moir_edge.export.plan import plan_export
from moir_edge.precisions import FP32
from moir_edge.progress import Progress, silent, single_step

if TYPE_CHECKING:
    from moir_edge.calibration import CalibrationSettings, MixSettings

__all__ = ["export_bundle"]


def export_bundle(
    checkpoint: str | Path,
    output: str | Path,
    *,
    target: str = "cpu",
    precision: str = FP32,
    component_precision: Mapping[str, str] | None = None,
    calibration: CalibrationSettings | None = None,
    int4_method: str | None = None,
    mix: MixSettings | None = None,
    engines: bool = True,
    parity_rtol: float = PARITY_RTOL,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Export a checkpoint to a bundle folder; it appears whole or not at all.

    For several precisions of one checkpoint call `trace_components` once and `assemble` for each.

    Args:
        checkpoint: Folder or hub id of a vision-language model, with or without a router.
        output: The bundle folder to be.
        target: Device profile.
        precision: One of `moir_edge.precisions.EXPORTED`.
        component_precision: Overrides by component, such as ``{"vision": "fp32"}``.
        calibration: Data and methods for ``int8`` and ``fp8``, and for ``int4`` by a method that goes by data.
        int4_method: How INT4 weights are found: ``rtn``, ``awq``, ``gptq`` or ``hqq``; None takes the best there is with the
            data at hand.
        mix: Measure the layers' sensitivity into ``reports/sensitivity.json``, and raise the precision of as few as
            reach a target recovery; needs `calibration`.
        engines: Compile engines too, where the target's can be built on any machine.
        parity_rtol: Largest error of a float32 bundle's outputs against torch, as a share of each output's largest value.
        force: Replace a bundle that stands at `output`.
        progress: Called as ``progress(stage, done, total)``.

    Returns:
        The bundle's folder.

    Raises:
        UnsupportedError: Unknown target, precision, component or architecture, or calibration data are missing.
        DataError: The checkpoint cannot be loaded, the calibration data cannot be used, or `parity_rtol` is out of range.
        NotFiniteError: Torch or a written graph gives a NaN or an infinity.
        ToleranceError: A float32 bundle differs from torch by more than its tolerance.
        BundleError: `output` exists and may not be replaced.
        EnvironmentProblem: The disk is full or not writable.
    """
    # Everything that can be refused is refused before the long work.
    check_bundle_output(output, force=force)
    check_parity_rtol(parity_rtol)
    plan_export(
        COMPONENTS,
        target=target,
        precision=precision,
        component_precision=component_precision,
        int4_method=int4_method,
        calibration=calibration,
        mix=mix,
    )
    with single_step(progress or silent, "loading"):
        loaded = load_checkpoint(checkpoint)
    traced = trace_components(loaded, progress=progress)
    return assemble(
        traced,
        output,
        target=target,
        precision=precision,
        component_precision=component_precision,
        calibration=calibration,
        int4_method=int4_method,
        mix=mix,
        engines=engines,
        parity_rtol=parity_rtol,
        force=force,
        progress=progress,
    )
