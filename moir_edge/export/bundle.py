"""`export_bundle`: from a checkpoint to a bundle in one call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from moir_edge.arguments import check_run, given_path
from moir_edge.bundle import check_bundle_output
from moir_edge.checkpoint import load_checkpoint
from moir_edge.export.assembly import assemble
from moir_edge.export.components import trace_components
from moir_edge.export.settings import ExportSettings, chosen_settings
from moir_edge.progress import Progress, silent, single_step

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from moir_edge.export.settings import ExportOptions

__all__ = ["export_bundle"]


def export_bundle(
    checkpoint: str | Path,
    output: str | Path,
    settings: ExportSettings | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
    **options: Unpack[ExportOptions],
) -> Path:
    """Export a checkpoint to a bundle folder; it appears whole or not at all.

    For several precisions of one checkpoint call `trace_components` once and `assemble` for each.

    Args:
        checkpoint: Folder or hub id of a vision-language model, with or without a router.
        output: The bundle folder to be.
        settings: What the bundle is to be; None for an fp32 bundle on a CPU.
        force: Replace a bundle that stands at `output`.
        progress: Called as ``progress(stage, done, total)``.
        options: Fields of `ExportSettings`, in place of those of `settings`.

    Returns:
        The bundle's folder.

    Raises:
        UnsupportedError: The settings cannot be met, see `ExportSettings`, or the architecture is unknown.
        DataError: The checkpoint cannot be loaded, or the calibration data cannot be used.
        NotFiniteError: Torch or a written graph gives a NaN or an infinity.
        ToleranceError: A float32 bundle differs from torch by more than its tolerance.
        BundleError: `output` exists and may not be replaced.
        EnvironmentProblem: The disk is full or not writable.
    """
    given_path("checkpoint", checkpoint)
    given_path("output", output)
    check_run(progress, force=force)
    # Everything that can be refused is refused before the long work.
    check_bundle_output(output, force=force)
    chosen = chosen_settings(settings, options)
    with single_step(progress or silent, "loading"):
        loaded = load_checkpoint(checkpoint, mapped=True)
    traced = trace_components(loaded, progress=progress)
    return assemble(traced, output, chosen, force=force, progress=progress)
