"""Compile the matrix of engines and measure size and cost: `python -m benchmarks.engines -o FILE`.

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

from benchmarks.engine_tables import EngineRow, Refusal, write_tables
from moir_edge.errors import EnvironmentProblem, MoirEdgeError, UnsupportedError
from moir_edge.finite import json_text
from moir_edge.precisions import EXPORTED, PRECISIONS
from moir_edge.targets import TARGETS, available_precisions, check_precision

if TYPE_CHECKING:
    from moir_edge.bundle import EngineEntry, Manifest
    from moir_edge.calibration import CalibrationSettings
    from moir_edge.export import TracedModel

__all__ = ["MODELS", "EngineRow", "Refusal", "build_matrix", "main"]

MODELS = ("demo", "smolvlm-256m")
"""What can be built: the demo checkpoint, and the geometry of SmolVLM-256M with seeded random weights."""

_CALIBRATION_ROWS = {"demo": 32, "smolvlm-256m": 4}


def build_matrix(
    model: str, targets: Sequence[str], precisions: Sequence[str], folder: Path
) -> Iterator[EngineRow | Refusal]:
    """Export a model in every precision and compile each for every target.

    Args:
        model: One of `MODELS`.
        targets: RTX targets.
        precisions: Those of them that a target lacks are refused.
        folder: Where checkpoint and bundles go.

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
                yield from _build(model, bundle, target, precision)


def _trace(model: str, folder: Path) -> TracedModel:
    from moir_edge.export import load_checkpoint, trace_components

    if model == "demo":
        from moir_edge.demo import checkpoint_path

        return trace_components(load_checkpoint(str(checkpoint_path())))
    try:
        from benchmarks.peers.checkpoint import build_checkpoint
    except ImportError as error:
        raise EnvironmentProblem(
            f"the geometry {model} is made by benchmarks/peers, which is not installed; run this in a checkout"
        ) from error
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the matrix, print it, write the JSON and the page; returns the exit code.

    Args:
        arguments: Of the command line.
    """
    options = _options(arguments)
    rows: list[EngineRow | Refusal] = []
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = options.work or Path(scratch)
            matrix = build_matrix(options.model, options.targets, options.precisions, folder)
            for row in matrix:
                print(_line(row), file=sys.stderr, flush=True)  # noqa: T201
                rows.append(row)
    except MoirEdgeError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    records = [{"built": isinstance(row, EngineRow), **asdict(row)} for row in rows]
    options.output.write_text(json_text(records, indent=1) + "\n", encoding="utf-8")
    if options.docs is not None:
        built = [row for row in rows if isinstance(row, EngineRow)]
        refused = [row for row in rows if isinstance(row, Refusal)]
        write_tables(options.docs, options.model, built, refused)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    ahead = [name for name, target in TARGETS.items() if target.builds_ahead_of_time]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines", description=__doc__.splitlines()[0]
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--model", choices=MODELS, default="demo")
    parser.add_argument("--targets", nargs="+", choices=ahead, default=ahead)
    parser.add_argument("--precisions", nargs="+", choices=EXPORTED, default=EXPORTED)
    parser.add_argument("--work", type=Path, help="keep checkpoint and bundles in this folder")
    parser.add_argument("--docs", type=Path, help="page whose tables are written anew")
    return parser.parse_args(arguments)


def _line(row: EngineRow | Refusal) -> str:
    if isinstance(row, Refusal):
        return f"{row.target} {row.precision}: refused: {row.reason}"
    return (
        f"{row.target} {row.precision} {row.component}: {row.engine_bytes / 1e6:.2f} MB in {row.seconds:.1f} s, "
        f"peak {row.peak_memory_bytes / 1e6:.0f} MB, estimated {row.estimated_memory_bytes / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    sys.exit(main())
