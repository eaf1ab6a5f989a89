"""Measure each precision and method on the demo: `python -m benchmarks.quantization -o FILE`.

Exports the demo checkpoint once per row of a table, compares all bundles with the fp32 one on the test split, and prints the
table that `docs/quantization-measurements.md` shows. Exit code 1 if a row misses its recovery.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moir_edge.errors import MoirEdgeError, UnsupportedError, closest
from moir_edge.finite import json_text

if TYPE_CHECKING:
    from moir_edge.calibration import CalibrationSettings
    from moir_edge.evaluation.comparison.schema import CandidateReport
    from moir_edge.export import TracedModel
    from moir_edge.progress import Progress

__all__ = ["CONFIGURATIONS", "Configuration", "Result", "main", "measure", "table"]

ROWS = 1200
CALIBRATION_ROWS = 256
_CALIBRATION_SEED = 7
_ALL_INT4 = {"vision": "int4"}


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One row of the table: a way to export the checkpoint.

    Attributes:
        name: Of the row and the bundle.
        precision: Of the bundle.
        options: Further arguments of `moir_edge.export.assemble`.
        calibrated: Whether it is given the calibration data.
        min_recovery: What it must reach, in %; None for a row that is only reported.
    """

    name: str
    precision: str
    options: Mapping[str, Any] = field(default_factory=dict)
    calibrated: bool = False
    min_recovery: float | None = None


def _int4(
    method: str, min_recovery: float | None, *, calibrated: bool = False
) -> tuple[Configuration, Configuration]:
    """Return the rows of one method: the default mix of components, and all of them in INT4."""
    usual = Configuration(
        name=f"int4-{method}",
        precision="int4",
        options={"int4_method": method},
        calibrated=calibrated,
        min_recovery=min_recovery,
    )
    everything = Configuration(
        name=f"int4-{method}-vision-too",
        precision="int4",
        options={"int4_method": method, "component_precision": _ALL_INT4},
        calibrated=calibrated,
    )
    return usual, everything


CONFIGURATIONS: tuple[Configuration, ...] = (
    Configuration(name="int8-weight-only", precision="int8-weight-only", min_recovery=99.5),
    Configuration(name="int8", precision="int8", calibrated=True, min_recovery=99.5),
    Configuration(
        name="int8-vision-too",
        precision="int8",
        options={"component_precision": {"vision": "int8"}},
        calibrated=True,
    ),
    *_int4("rtn", 98.0),
    *_int4("hqq", 98.0),
    *_int4("awq", 99.0, calibrated=True),
    *_int4("gptq", 99.0, calibrated=True),
    # Graphs for a GPU, whose products are run exactly to check them.
    Configuration(
        name="int8-gpu",
        precision="int8",
        options={"target": "jetson-thor"},
        calibrated=True,
        min_recovery=99.5,
    ),
    Configuration(
        name="int4-gptq-gpu",
        precision="int4",
        options={"target": "jetson-thor", "int4_method": "gptq"},
        calibrated=True,
        min_recovery=99.0,
    ),
    Configuration(
        name="fp8",
        precision="fp8",
        options={"target": "jetson-thor"},
        calibrated=True,
        min_recovery=99.5,
    ),
    Configuration(
        name="nvfp4", precision="nvfp4", options={"target": "jetson-thor"}, calibrated=True
    ),
)
"""Every row, in the order of the table."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The figures of one row, against the fp32 bundle.

    Attributes:
        name: Of the configuration.
        tensor_bytes: Of all graphs.
        recovery: Score over that of fp32, a share.
        recovery_low: Lower end of its 95 % interval.
        recovery_high: Upper end.
        identical: Share of the rows with the same greedy tokens.
        leading: Share of the tokens up to the first that differs.
        index_agreement: Share of the router's indices that are the same; None without a router.
        matched_cosine: Mean cosine between the tokens that either router picked; None without a router.
        output_db: Signal to noise of the outputs of the vision and decoder layers over the calibration data, were each
            in INT4 by the row's method, median; None for other precisions.
        min_recovery: What `recovery` must reach, in %; None for no bound.
    """

    name: str
    tensor_bytes: int
    recovery: float
    recovery_low: float
    recovery_high: float
    identical: float
    leading: float
    index_agreement: float | None
    matched_cosine: float | None
    output_db: float | None
    min_recovery: float | None

    @property
    def passed(self) -> bool:
        """Whether it reaches its bound, if there is one."""
        return self.min_recovery is None or 100 * self.recovery >= self.min_recovery


def measure(
    checkpoint: Path,
    folder: Path,
    configurations: Sequence[Configuration] = CONFIGURATIONS,
    *,
    rows: int = ROWS,
    calibration_rows: int = CALIBRATION_ROWS,
    progress: Progress | None = None,
) -> list[Result]:
    """Export, compare and gather the figures.

    Args:
        checkpoint: The demo checkpoint, or another one for the demo's data.
        folder: Where data, bundles and statistics go.
        configurations: Rows of the table.
        rows: Rows of the demo's test split.
        calibration_rows: Rows of its validation split that calibrate.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        MoirEdgeError: An export or the comparison failed.
    """
    from moir_edge.demo import demo_rows, write_jsonl
    from moir_edge.evaluation import CompareSettings, compare

    data = write_jsonl(demo_rows("test", count=rows), folder / "data")
    exports = _export(checkpoint, folder, configurations, calibration_rows, progress)
    report = compare(
        exports.reference,
        exports.bundles,
        data,
        settings=CompareSettings(latency_rows=1, latency_repeats=1, threads=1),
        progress=progress,
    )
    return [
        _result(configuration, candidate, exports.output_db.get(_method_of(configuration)))
        for configuration, candidate in zip(configurations, report.candidates[1:], strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class _Exports:
    reference: Path
    bundles: Sequence[Path]
    output_db: Mapping[str, float]


def _export(
    checkpoint: Path,
    folder: Path,
    configurations: Sequence[Configuration],
    calibration_rows: int,
    progress: Progress | None,
) -> _Exports:
    """Trace once; return the fp32 bundle and one for each configuration."""
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
    reference = assemble(traced, folder / "fp32", progress=progress)
    bundles = [
        assemble(
            traced,
            folder / one.name,
            precision=one.precision,
            calibration=_settings_of(one, settings),
            progress=progress,
            **one.options,
        )
        for one in configurations
    ]
    methods = {_method_of(one) for one in configurations} - {""}
    return _Exports(
        reference=reference,
        bundles=bundles,
        output_db=_output_db(traced, reference, settings, methods) if methods else {},
    )


def _method_of(configuration: Configuration) -> str:
    return str(configuration.options.get("int4_method", ""))


def _output_db(
    traced: TracedModel, folder: Path, settings: CalibrationSettings, methods: Iterable[str]
) -> dict[str, float]:
    """Return the median signal to noise of the outputs of INT4 layers by method, in dB."""
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
    found: dict[str, float] = {}
    for method in methods:
        summaries = [
            quantize_layers(
                traced.graphs[name].clone(),
                "int4",
                options=LayerOptions(int4_method=method),
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
        found[method] = float(np.median([ratio for ratio in ratios if ratio is not None]))
    return found


def _settings_of(
    configuration: Configuration, settings: CalibrationSettings
) -> CalibrationSettings | None:
    return settings if configuration.calibrated else None


def _result(
    configuration: Configuration, candidate: CandidateReport, output_db: float | None
) -> Result:
    recovery, tokens, routing = candidate.recovery, candidate.token_agreement, candidate.routing
    if recovery is None or tokens is None:
        raise UnsupportedError(f"{configuration.name} was not compared with the fp32 bundle")
    return Result(
        name=configuration.name,
        tensor_bytes=candidate.weights_bytes,
        recovery=recovery.value,
        recovery_low=recovery.low,
        recovery_high=recovery.high,
        identical=tokens.identical,
        leading=tokens.leading,
        index_agreement=None if routing is None else routing.index_agreement,
        matched_cosine=None if routing is None else routing.matched_cosine,
        output_db=output_db,
        min_recovery=configuration.min_recovery,
    )


def table(results: Sequence[Result]) -> str:
    """Return the results as a Markdown table.

    Args:
        results: From `measure`.
    """
    lines = [
        "| | weights MB | recovery | same tokens | router indices | matched-token cosine | INT4 layers dB |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in results:
        cells = (
            f"`{one.name}`",
            f"{one.tensor_bytes / 1e6:.2f}",
            f"{100 * one.recovery:.1f} % ({100 * one.recovery_low:.1f}–{100 * one.recovery_high:.1f})",
            f"{100 * one.identical:.1f} %",
            "–" if one.index_agreement is None else f"{100 * one.index_agreement:.2f} %",
            "–" if one.matched_cosine is None else f"{one.matched_cosine:.4f}",
            "–" if one.output_db is None else f"{one.output_db:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 all reached, 1 one missed, 2 it could not be measured.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    options = _parser().parse_args(arguments)
    try:
        results = _measure(options)
    except MoirEdgeError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    options.output.parent.mkdir(parents=True, exist_ok=True)
    record = [{**asdict(one), "passed": one.passed} for one in results]
    options.output.write_text(json_text(record, indent=1) + "\n", encoding="utf-8")
    print(table(results))  # noqa: T201
    missed = [one for one in results if not one.passed]
    for one in missed:
        print(f"FAILED: {one.name}: recovery under {one.min_recovery} %", file=sys.stderr)  # noqa: T201
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantization")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--checkpoint", type=Path, help="another checkpoint than the demo's")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of the demo's test split")
    parser.add_argument(
        "--calibration-rows",
        type=int,
        default=CALIBRATION_ROWS,
        help="rows of its validation split that calibrate",
    )
    parser.add_argument("--only", action="append", help="a row of the table; repeatable")
    return parser


def _measure(options: argparse.Namespace) -> list[Result]:
    from moir_edge.cli.progress import show_progress
    from moir_edge.demo import checkpoint_path

    with tempfile.TemporaryDirectory() as folder, show_progress("quantization") as progress:
        return measure(
            options.checkpoint or checkpoint_path(),
            Path(folder),
            _chosen(options.only),
            rows=options.rows,
            calibration_rows=options.calibration_rows,
            progress=progress,
        )


def _chosen(names: Sequence[str] | None) -> tuple[Configuration, ...]:
    known = {one.name: one for one in CONFIGURATIONS}
    for name in names or ():
        if name not in known:
            raise UnsupportedError(f"unknown row {name!r}: {closest(name, known)}")
    return tuple(one for one in CONFIGURATIONS if names is None or one.name in names)


if __name__ == "__main__":
    sys.exit(main())
