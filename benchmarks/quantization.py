"""Measure each precision and method on the demo, and check the bounds of a release.

Exports the demo checkpoint once per row of a table, compares all bundles with the fp32 one on the test split, and the fp32 one
with torch. Prints the table that `docs/quantization.md` shows, then size, scores, parity, agreement and recovery against fixed
bounds. The exit code is 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common import (
    AGREEMENT_HEAD,
    Result,
    add_count,
    agreement_cells,
    agreement_record,
    markdown_table,
    new_parser,
    run,
)
from benchmarks.quantization_candidates import ACCEPTANCE, FP32, Candidate, Int4Way, chosen
from benchmarks.quantization_checks import recovery_check, reference_checks, size_check

if TYPE_CHECKING:
    from moir_edge.calibration import CalibrationSettings
    from moir_edge.export import TracedModel
    from moir_edge.progress import Progress

__all__ = ["main", "measure", "table"]

ROWS = 1200
CALIBRATION_ROWS = 256
PARITY_ROWS = 200
_CALIBRATION_SEED = 7


def measure(options: argparse.Namespace, progress: Progress) -> Result:
    """Export, compare, and hold the figures against their bounds.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        MoirEdgeError: An export or the comparison failed.
    """
    from moir_edge.bundle import open_bundle
    from moir_edge.demo import checkpoint_path, demo_rows, write_jsonl
    from moir_edge.evaluation import CompareSettings, compare

    candidates, with_torch = chosen(ACCEPTANCE if options.acceptance else options.only)
    checkpoint = options.checkpoint or checkpoint_path()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        exports = _export(
            checkpoint, folder, candidates, options.calibration_rows, progress, parity=with_torch
        )
        others = [*exports.bundles, *([checkpoint] if with_torch else [])]
        data = write_jsonl(demo_rows("test", count=options.rows), folder / "data")
        settings = CompareSettings(latency_rows=1, latency_repeats=1, threads=1)
        report = compare(exports.reference, others, data, settings=settings, progress=progress)
        manifests = {
            path.name: open_bundle(path).manifest for path in (exports.reference, *exports.bundles)
        }
    reference, *compared = report.candidates
    # Bundles of other rows are small beside the reports that calibration leaves in them.
    checks = [size_check(name, one) for name, one in manifests.items() if name in ACCEPTANCE]
    if with_torch:
        checks += reference_checks(reference, compared[-1], manifests[FP32], exports.parity)
    records = []
    for one, found in zip(candidates, compared, strict=False):
        checks.append(recovery_check(found, one.min_recovery))
        output_db = exports.output_db.get(one.int4_way)
        facts = {"name": one.name, "tensor_bytes": found.weights_bytes, "output_db": output_db}
        records.append(facts | agreement_record(found))
    return Result(
        text=table(records),
        record={"rows": records, "checks": [check.record() for check in checks]},
        checks=checks,
    )


@dataclass(frozen=True, kw_only=True)
class _Exports:
    reference: Path
    bundles: Sequence[Path]
    output_db: Mapping[Int4Way | None, float]
    parity: Mapping[str, Any]


def _export(
    checkpoint: Path,
    folder: Path,
    candidates: Sequence[Candidate],
    calibration_rows: int,
    progress: Progress,
    *,
    parity: bool,
) -> _Exports:
    """Trace once; write the fp32 bundle and one of each candidate, and measure what needs the traced model."""
    from moir_edge.calibration import CalibrationSettings
    from moir_edge.demo import demo_rows, write_jsonl
    from moir_edge.export import assemble, load_checkpoint, trace_components

    rows = demo_rows("val", count=calibration_rows, seed=_CALIBRATION_SEED)
    settings = CalibrationSettings(
        data=write_jsonl(rows, folder / "calibration"),
        rows=calibration_rows,
        cache=folder / "statistics",
    )
    traced = trace_components(load_checkpoint(checkpoint), progress=progress)
    reference = assemble(traced, folder / FP32, progress=progress)
    bundles = [
        assemble(
            traced,
            folder / one.name,
            calibration=settings if one.calibrated else None,
            progress=progress,
            **one.options,
        )
        for one in candidates
    ]
    ways = {one.int4_way for one in candidates if one.int4_way is not None}
    return _Exports(
        reference=reference,
        bundles=bundles,
        output_db=_output_db(traced, reference, settings, ways) if ways else {},
        parity=_parity(traced, reference) if parity else {},
    )


def _parity(traced: TracedModel, bundle: Path) -> dict[str, Any]:
    """Return the parity of a bundle with torch over prompts of the test split, one by one."""
    from moir_edge import load
    from moir_edge.demo import demo_rows
    from moir_edge.export.parity import measure_parity
    from moir_edge.export.samples import ParitySample

    model = load(bundle)
    samples = []
    for row in demo_rows("test", count=PARITY_ROWS):
        inputs = model.encode(row.prompt, list(row.images), context=row.context)
        if inputs.pixel_values is not None:
            samples.append(
                ParitySample(
                    name=row.id,
                    input_ids=inputs.input_ids,
                    attention_mask=inputs.attention_mask,
                    pixel_values=inputs.pixel_values,
                    images=inputs.images,
                )
            )
    precisions = {name: entry.precision for name, entry in model.manifest.components.items()}
    return measure_parity(traced, bundle, precisions, samples)


def _output_db(
    traced: TracedModel, folder: Path, settings: CalibrationSettings, ways: Iterable[Int4Way]
) -> dict[Int4Way | None, float]:
    """Return the median signal to noise of the outputs of INT4 layers by method and block size, in dB."""
    from moir_edge.calibration.layers import LayerOptions, quantize_layers
    from moir_edge.calibration.preparation import calibrate

    calibrated = calibrate(
        traced.graphs,
        traced.facts,
        folder,
        settings,
        components=("vision", "decoder"),
        weights_only=("vision", "decoder"),
    )
    found: dict[Int4Way | None, float] = {}
    for method, block_size in ways:
        summaries = [
            quantize_layers(
                traced.graphs[name].clone(),
                "int4",
                options=LayerOptions(int4_method=method, block_size=block_size),
                observers=observers,
            )
            for name, observers in calibrated.observers.items()
        ]
        scales = [
            one.scales
            for summary in summaries
            for one in summary.weights
            if one.precision == "int4"
        ]
        ratios = [one.output_signal_to_noise_db for one in scales if one is not None]
        found[method, block_size] = float(
            np.median([ratio for ratio in ratios if ratio is not None])
        )
    return found


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a Markdown table.

    Args:
        records: With ``name``; ``tensor_bytes`` of all graphs; what `agreement_record` gives; and ``output_db``, the median
            signal to noise of the outputs of the vision and decoder layers over the calibration data, were each in
            INT4 by the row's method and block size, or None.
    """
    return markdown_table(
        ("", "weights MB", *AGREEMENT_HEAD, "INT4 layers dB"),
        [
            (
                f"`{one['name']}`",
                f"{one['tensor_bytes'] / 1e6:.2f}",
                *agreement_cells(one),
                "–" if one["output_db"] is None else f"{one['output_db']:.1f}",
            )
            for one in records
        ],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("quantization", __doc__)
    parser.add_argument("--checkpoint", type=Path, help="another checkpoint than the demo's")
    add_count(parser, "--rows", ROWS, "rows of the demo's test split")
    add_count(
        parser,
        "--calibration-rows",
        CALIBRATION_ROWS,
        "rows of its validation split that calibrate",
    )
    parser.add_argument(
        "--only", action="append", metavar="ROW", help="a row of the table, or fp32; repeatable"
    )
    parser.add_argument(
        "--acceptance", action="store_true", help=f"the rows {', '.join(ACCEPTANCE)} alone"
    )
    return run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
