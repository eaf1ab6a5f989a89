"""Compile the matrix of engines and measure size and cost.

Builds the demo checkpoint, or the geometry of SmolVLM-256M, for every RTX target in every precision it has, with no GPU, and
records size, time and peak memory of each build next to the estimate. A precision that a target lacks is listed with
the reason. ``--docs`` writes the tables into a page between its markers.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common import Result, new_parser, replace_between, run
from benchmarks.engine_tables import EngineRow, Refusal, render_tables
from moir_edge.errors import UnsupportedError
from moir_edge.precisions import PRECISIONS
from moir_edge.progress import Progress, single_step
from moir_edge.targets import TARGETS, available_precisions, check_precision

if TYPE_CHECKING:
    from moir_edge.bundle import EngineEntry, Manifest
    from moir_edge.calibration import CalibrationSettings
    from moir_edge.export import TracedModel

__all__ = ["MODELS", "build_matrix", "main", "marks", "measure"]

MODELS = ("demo", "smolvlm-256m")
"""What can be built: the demo checkpoint, and the geometry of SmolVLM-256M with seeded random weights."""

_CALIBRATION_ROWS = {"demo": 32, "smolvlm-256m": 4}


def build_matrix(
    model: str,
    targets: Sequence[str],
    precisions: Sequence[str],
    folder: Path,
    progress: Progress,
) -> Iterator[EngineRow | Refusal]:
    """Export a model in every precision and compile each for every target.

    Args:
        model: One of `MODELS`.
        targets: RTX targets.
        precisions: Those of them that a target lacks are refused.
        folder: Where checkpoint and bundles go.
        progress: Called as ``progress(stage, done, total)``.

    Yields:
        One row per engine, or a refusal per target and precision.
    """
    traced = _trace(model, folder)
    for precision in precisions:
        having = [name for name in targets if precision in available_precisions(TARGETS[name])]
        for target in targets:
            if target not in having:
                yield _refused(model, target, precision)
        if having:
            bundle = _bundle(traced, model, precision, having[0], folder)
            for target in having:
                with single_step(progress, f"{target} {precision}"):
                    found = list(_build(model, bundle, target, precision))
                yield from found


def _trace(model: str, folder: Path) -> TracedModel:
    from moir_edge.export import load_checkpoint, trace_components

    if model == "demo":
        from moir_edge.demo import checkpoint_path

        return trace_components(load_checkpoint(str(checkpoint_path())))
    from benchmarks.peers.checkpoint import build_checkpoint

    checkpoint = folder / "checkpoint"
    if not (checkpoint / "config.json").is_file():
        build_checkpoint(checkpoint)
    return trace_components(load_checkpoint(str(checkpoint)))


def _bundle(traced: TracedModel, model: str, precision: str, target: str, folder: Path) -> Path:
    """Write the graphs, which are the same for every RTX target."""
    from moir_edge.export import assemble

    return assemble(
        traced,
        folder / f"{model}-{precision}",
        target=target,
        precision=precision,
        calibration=_calibration(model, folder) if PRECISIONS[precision].needs_data else None,
        engines=False,
        force=True,
    )


def _calibration(model: str, folder: Path) -> CalibrationSettings:
    from moir_edge.calibration import CalibrationSettings
    from moir_edge.demo import demo_rows, write_jsonl

    rows = _CALIBRATION_ROWS[model]
    data = write_jsonl(demo_rows("val", count=rows), folder / "calibration")
    return CalibrationSettings(data=data, rows=rows)


def _build(model: str, bundle: Path, target: str, precision: str) -> Iterator[EngineRow | Refusal]:
    from moir_edge.bundle import open_bundle
    from moir_edge.engines import build_engines

    manifest = open_bundle(bundle, verify=False).manifest
    try:
        entries = build_engines(bundle, manifest, target)
    except UnsupportedError as error:
        yield Refusal(model=model, target=target, precision=precision, reason=str(error))
        return
    for entry in entries:
        yield _row(model, bundle, manifest, entry)


def _row(model: str, bundle: Path, manifest: Manifest, entry: EngineEntry) -> EngineRow:
    from moir_edge.engines.memory import estimate_build_memory

    component = manifest.components[entry.component]
    return EngineRow(
        model=model,
        target=entry.target,
        precision=manifest.precision,
        component=entry.component,
        weight_bytes=component.tensor_bytes,
        engine_bytes=entry.bytes,
        seconds=entry.build_seconds,
        peak_memory_bytes=entry.peak_memory_bytes or 0,
        estimated_memory_bytes=estimate_build_memory(
            bundle, manifest, entry.component, TARGETS[entry.target]
        ),
    )


def _refused(model: str, target: str, precision: str) -> Refusal:
    reason = ""
    try:
        check_precision(target, precision)
    except UnsupportedError as error:
        reason = str(error)
    return Refusal(model=model, target=target, precision=precision, reason=reason)


def measure(options: argparse.Namespace, progress: Progress) -> Result:
    """Build the matrix and, if asked, write its tables into a page.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch)
        rows = list(
            build_matrix(options.model, options.targets, options.precisions, folder, progress)
        )
    built = [row for row in rows if isinstance(row, EngineRow)]
    refused = [row for row in rows if isinstance(row, Refusal)]
    tables = render_tables(built, refused)
    if options.docs is not None:
        replace_between(options.docs, *marks(options.model), tables)
    records = [{"built": isinstance(row, EngineRow), **asdict(row)} for row in rows]
    return Result(text=tables, record=records)


def marks(model: str) -> tuple[str, str]:
    """Return the lines of a page between which the tables of a model stand."""
    return f"<!-- engines:{model} -->", f"<!-- /engines:{model} -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    ahead = [name for name, target in TARGETS.items() if target.builds_ahead_of_time]
    parser = new_parser("engines", __doc__)
    parser.add_argument("--model", choices=MODELS, default="demo")
    parser.add_argument("--targets", nargs="+", choices=ahead, default=ahead)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=tuple(PRECISIONS))
    parser.add_argument("--work", type=Path, help="keep checkpoint and bundles in this folder")
    parser.add_argument("--docs", type=Path, help="page whose tables are written anew")
    return run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
