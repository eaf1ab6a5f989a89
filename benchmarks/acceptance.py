"""The figures that a release must reach, measured on the demo: `python -m benchmarks.acceptance -o FILE`.

Exports the demo checkpoint in every precision, compares all bundles with torch on the test split, and checks size,
parity, agreement, accuracy and recovery against fixed bounds. Exit code 1 if one is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moir_edge.errors import MoirEdgeError
from moir_edge.finite import json_text

if TYPE_CHECKING:
    from moir_edge.bundle import Manifest
    from moir_edge.evaluation.comparison.schema import CandidateReport, ComparisonReport
    from moir_edge.export import TracedModel
    from moir_edge.progress import Progress

__all__ = ["Check", "checks_of", "main", "run_acceptance"]

PRECISIONS = ("fp32", "int8-weight-only", "int4")
MIN_SCORE = {"vqa": 90.0, "statement": 85.0}
MIN_RECOVERY = {"int8-weight-only": 99.5, "int4": 98.0}
MIN_FP32_TOKENS_PERCENT = 99.5
MIN_FP32_INDEX_PERCENT = 99.9
MAX_FP32_LOGITS_ERROR = 1e-3
MAX_SIZE_RATIO = 1.03
ROWS = 1200
PARITY_ROWS = 200


@dataclass(frozen=True, kw_only=True)
class Check:
    """One figure and what it must reach; without a bound it is only reported."""

    name: str
    value: float | None
    minimum: float | None = None
    maximum: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the figure was measured and keeps its bounds."""
        if self.value is None:
            return False
        above = self.minimum is None or self.value >= self.minimum
        return above and (self.maximum is None or self.value <= self.maximum)

    def sentence(self) -> str:
        """Return the check as one line for people."""
        value = "not measured" if self.value is None else f"{self.value:.6g}"
        bound = f" (at least {self.minimum:g})" if self.minimum is not None else ""
        bound += f" (at most {self.maximum:g})" if self.maximum is not None else ""
        return f"{'passed' if self.passed else 'FAILED'}: {self.name}: {value}{bound}"


def run_acceptance(
    checkpoint: Path, folder: Path, *, rows: int = ROWS, progress: Progress | None = None
) -> list[Check]:
    """Export, compare and check.

    Args:
        checkpoint: The demo checkpoint.
        folder: Where data, bundles and the report go.
        rows: Rows of the demo's test split.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        MoirEdgeError: The export or the comparison failed.
    """
    from moir_edge.bundle import open_bundle
    from moir_edge.demo import demo_rows, write_jsonl
    from moir_edge.evaluation.comparison.run import compare
    from moir_edge.export import assemble, load_checkpoint, trace_components

    data = write_jsonl(demo_rows("test", count=rows), folder / "data")
    traced = trace_components(load_checkpoint(checkpoint), progress=progress)
    bundles = [
        assemble(traced, folder / precision, target="cpu", precision=precision)
        for precision in PRECISIONS
    ]
    parity = _demo_parity(traced, bundles[0])
    del traced  # torch's copy of the weights would weigh on the measurement
    report = compare(checkpoint, bundles, data, folder / "report", progress=progress)
    manifests = [open_bundle(bundle).manifest for bundle in bundles]
    return list(checks_of(report, manifests, parity))


def _demo_parity(traced: TracedModel, bundle: Path) -> dict[str, Any]:
    """Return the parity figures of a bundle with torch over prompts of the test split, one by one."""
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
                )
            )
    plan = {name: entry.precision for name, entry in model.manifest.components.items()}
    return measure_parity(traced, bundle, plan, samples)


def checks_of(
    report: ComparisonReport, manifests: Sequence[Manifest], parity: Mapping[str, Any]
) -> Iterator[Check]:
    """Yield every check.

    Args:
        report: The comparison of the checkpoint (first) with the bundles.
        manifests: Those of the bundles, in the same order.
        parity: Figures of the fp32 bundle against torch, from `measure_parity`.
    """
    for candidate, manifest in zip(report.candidates[1:], manifests, strict=True):
        yield Check(
            name=f"{candidate.name}: bytes over tensor bytes",
            value=_size_ratio(manifest),
            maximum=MAX_SIZE_RATIO,
        )
        if manifest.precision == "fp32":
            yield from _fp32_checks(candidate, parity)
            # Routers of other kinds take from the mean of the other modality: there are no indices to find.
            if (manifest.router or {}).get("kind", "token") == "token":
                yield _index_check(candidate)
        else:
            yield Check(
                name=f"{candidate.name}: recovery %",
                value=100 * candidate.recovery.value if candidate.recovery else None,
                minimum=MIN_RECOVERY[manifest.precision],
            )


def _fp32_checks(candidate: CandidateReport, parity: Mapping[str, Any]) -> Iterator[Check]:
    for task, figures in candidate.tasks.items():
        yield Check(
            name=f"{candidate.name}: {task} {figures.metric}",
            value=figures.score,
            minimum=MIN_SCORE.get(task),
        )
    tokens = candidate.token_agreement
    yield Check(
        name=f"{candidate.name}: identical greedy token sequences %",
        value=100 * tokens.identical if tokens else None,
        minimum=MIN_FP32_TOKENS_PERCENT,
    )
    yield Check(
        name=f"{candidate.name}: logits, largest absolute error",
        value=_logits_error(parity),
        maximum=MAX_FP32_LOGITS_ERROR,
    )


def _index_check(candidate: CandidateReport) -> Check:
    routing = candidate.routing
    return Check(
        name=f"{candidate.name}: router indices found %",
        value=100 * routing.index_agreement if routing else None,
        minimum=MIN_FP32_INDEX_PERCENT,
    )


def _size_ratio(manifest: Manifest) -> float:
    """Return all bytes of the bundle but its engines, over the bytes of the graphs' tensors."""
    engines = {engine.path for engine in manifest.engines}
    size = sum(file.bytes for file in manifest.files if file.path not in engines)
    return size / sum(entry.tensor_bytes for entry in manifest.components.values())


def _logits_error(parity: Mapping[str, Any]) -> float | None:
    errors = parity.get("max_abs_error", {})
    found = [value for name, value in errors.items() if name.endswith("logits")]
    return max(found) if found else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 all reached, 1 one missed, 2 it could not be measured.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.acceptance")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--checkpoint", type=Path, help="another checkpoint than the demo's")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of the demo's test split")
    options = parser.parse_args(arguments)
    try:
        checks = _measure(options.checkpoint, options.rows)
    except MoirEdgeError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    options.output.parent.mkdir(parents=True, exist_ok=True)
    record = [{**asdict(check), "passed": check.passed} for check in checks]
    options.output.write_text(json_text(record, indent=1) + "\n", encoding="utf-8")
    for check in checks:
        print(check.sentence())  # noqa: T201
    return 0 if all(check.passed for check in checks) else 1


def _measure(checkpoint: Path | None, rows: int) -> list[Check]:
    from moir_edge.cli.progress import show_progress
    from moir_edge.demo import checkpoint_path

    with tempfile.TemporaryDirectory() as folder, show_progress("acceptance") as progress:
        source = checkpoint or checkpoint_path()
        return run_acceptance(source, Path(folder), rows=rows, progress=progress)


if __name__ == "__main__":
    sys.exit(main())
