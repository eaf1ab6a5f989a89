"""Quantize the demo's vision tower and decoder to int8 with moir-edge and with its peers, and measure what comes out.

Every quantizer gets the same float32 graphs and the same calibration rows, runs in a process of its own on one thread,
and what it writes replaces those two graphs in a copy of the float32 bundle, which `compare` then runs: router,
embedding, runtime and rows are the same for all. moir-edge's time counts reading the rows and running the whole chain;
the peers get the inputs of their graphs ready-made, which counts for nothing.

The peers: `onnxruntime.quantization.quantize_static` (QDQ, per channel, MinMax, after its pre-processing), and
nvidia-modelopt's ONNX quantization, whose requirements clash with the export extra, so that it needs an environment of
its own beside onnx and onnxruntime:

    pip install --no-deps nvidia-modelopt==0.47.0 onnx-graphsurgeon onnxslim onnxconverter-common omegaconf \
        antlr4-python3-runtime cppimport lief mako pybind11 requests urllib3 charset-normalizer nvidia-ml-py
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import (
    AGREEMENT_HEAD,
    Result,
    add_count,
    agreement_cells,
    agreement_record,
    markdown_table,
    new_parser,
    run,
    run_worker,
)
from benchmarks.peers.quantizer_feeds import COMPONENTS, write_feeds
from moir_edge.bundle import open_bundle, seal, staged_bundle
from moir_edge.errors import EnvironmentProblem
from moir_edge.evaluation.machine import CpuTimes, describe_machine, load_average
from moir_edge.ownership import matches, remove_files
from moir_edge.progress import Progress, single_step

if TYPE_CHECKING:
    from moir_edge.evaluation.comparison.schema import ComparisonReport

ROWS, EVAL_ROWS = 256, 1200
_WORKER = "benchmarks.peers.quantizer_worker"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to quantize.

    Attributes:
        name: Of its bundle and its line in the table.
        method: What the worker is told.
        same_nodes: Whether nodes that moir-edge leaves alone are excluded.
    """

    name: str
    method: str
    same_nodes: bool = False


CANDIDATES = (
    Candidate(name="moir-edge", method="moir-edge"),
    Candidate(name="onnxruntime", method="onnxruntime"),
    Candidate(name="onnxruntime-same-nodes", method="onnxruntime", same_nodes=True),
    Candidate(name="modelopt", method="modelopt"),
    Candidate(name="modelopt-same-nodes", method="modelopt", same_nodes=True),
)


def measure(options: argparse.Namespace, progress: Progress) -> Result:
    """Run every quantizer, then compare the bundles.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    work = options.work.absolute()
    bundle, calibration, evaluation = prepare(work, options.rows, options.eval_rows)
    load_before, cpu = load_average(), CpuTimes()
    runs: dict[str, dict[str, Any]] = {}
    for candidate in CANDIDATES:
        python = options.modelopt_python if candidate.method == "modelopt" else sys.executable
        if python is None:
            runs[candidate.name] = {"error": "not run: give --modelopt-python"}
            continue
        with single_step(progress, f"quantizing: {candidate.name}"):
            runs[candidate.name] = quantize(candidate, python, bundle, calibration, work)
    machine = describe_machine(load_before, cpu.steal_percent())
    built = [name for name, run in runs.items() if "error" not in run]
    report = _compare(bundle, [work / "bundles" / name for name in built], evaluation, progress)
    for name, figures in zip(built, report.candidates[1:], strict=True):
        tasks = {task: one.score for task, one in figures.tasks.items()}
        runs[name] |= {"tasks": tasks, **agreement_record(figures)}
    record = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine.model_dump(mode="json"),
        "settings": {"rows": options.rows, "eval_rows": options.eval_rows, "threads": 1},
        "fp32_bytes": _component_bytes(bundle),
        "quantizers": runs,
    }
    return Result(text=table(record), record=record)


def prepare(work: Path, rows: int, eval_rows: int) -> tuple[Path, Path, Path]:
    """Make what is missing: data, the float32 bundle, and the inputs of its graphs over the calibration rows.

    Returns:
        The bundle, calibration data and evaluation data.
    """
    from moir_edge.demo import checkpoint_path, demo_rows, write_jsonl
    from moir_edge.export import export_bundle

    calibration, evaluation = work / f"calib-{rows}", work / f"eval-{eval_rows}"
    if not (calibration / "data.jsonl").is_file():
        write_jsonl(demo_rows("val", count=rows, seed=7), calibration)
    if not (evaluation / "data.jsonl").is_file():
        write_jsonl(demo_rows("test", count=eval_rows), evaluation)
    bundle = work / "fp32"
    if not bundle.exists():
        export_bundle(checkpoint_path(), bundle)
    feeds = calibration / "feeds"
    if not feeds.exists():
        write_feeds(bundle, calibration / "data.jsonl", feeds)
    return bundle, calibration / "data.jsonl", evaluation / "data.jsonl"


def quantize(
    candidate: Candidate, python: str, bundle: Path, calibration: Path, work: Path
) -> dict[str, Any]:
    """Let one quantizer work in a process of its own, and put its graphs into a copy of the bundle.

    Returns:
        What the worker measured, or why it failed.
    """
    folder = work / "graphs" / candidate.name
    remove_files(folder, lambda path: matches(path, ("*.onnx", "*.data", "kept.json")))
    folder.mkdir(parents=True, exist_ok=True)
    kept = [work / "graphs" / "moir-edge" / "kept.json"] if candidate.same_nodes else []
    words = map(str, (candidate.method, bundle, calibration, folder, *kept))
    try:
        record = run_worker(_WORKER, *words, python=python, variables={"OMP_NUM_THREADS": "1"})
    except EnvironmentProblem as error:
        return {"error": str(error)}
    output = work / "bundles" / candidate.name
    write_copy(bundle, folder, output)
    return {**record, "bytes": _component_bytes(output)}


def write_copy(bundle: Path, graphs: Path, output: Path) -> None:
    """Write a copy of a bundle in which quantized graphs replace those of `COMPONENTS`.

    Args:
        bundle: The float32 bundle.
        graphs: Holds ``<component>.onnx`` and what those read.
        output: The bundle to be; one that stands there is replaced.
    """
    manifest = open_bundle(bundle, verify=False).manifest
    with staged_bundle(output, force=True) as folder:
        shutil.copytree(bundle, folder, dirs_exist_ok=True)
        entries = dict(manifest.components)
        for name in COMPONENTS:
            for path in folder.glob(f"{name}.*"):
                path.unlink()
            own = sorted(graphs.glob(f"{name}.*"))
            for path in own:
                shutil.copy(path, folder / path.name)
            data = tuple(path.name for path in own if path.suffix != ".onnx")
            size = sum(path.stat().st_size for path in own)
            update = {"precision": "int8", "data": data, "tensor_bytes": size}
            entries[name] = entries[name].model_copy(update=update)
        seal(folder, manifest.model_copy(update={"components": entries, "precision": "int8"}))


def _component_bytes(bundle: Path) -> int:
    components = open_bundle(bundle, verify=False).manifest.components
    return sum(components[name].tensor_bytes for name in COMPONENTS)


def _compare(
    reference: Path, bundles: Sequence[Path], data: Path, progress: Progress
) -> ComparisonReport:
    """Score all bundles on the rows; latency is not what is asked here, so one row is timed."""
    from moir_edge.evaluation import CompareSettings, compare

    settings = CompareSettings(threads=1, latency_rows=1, latency_repeats=1)
    return compare(reference, bundles, data, settings=settings, progress=progress)


def table(result: dict[str, Any]) -> str:
    """Return the figures as Markdown, factors against moir-edge in brackets."""
    runs = result["quantizers"]
    head = [
        "quantizer",
        *AGREEMENT_HEAD,
        "time s",
        "CPU s",
        "peak memory MB",
        "of it work",
        "size MB",
    ]
    rows = [(name, *_cells(run, runs["moir-edge"])) for name, run in runs.items()]
    return markdown_table(head, rows)


def _cells(run: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    if "error" in run:
        return [run["error"]]

    def factor(key: str, scale: float, digits: int) -> str:
        return f"{run[key] * scale:.{digits}f} ({run[key] / max(ours[key], 1e-9):.1f}×)"

    return [
        *agreement_cells(run),
        factor("seconds", 1, 1),
        factor("cpu_seconds", 1, 1),
        factor("peak_memory_bytes", 1e-6, 0),
        factor("work_memory_bytes", 1e-6, 0),
        f"{run['bytes'] / 1e6:.2f}",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("peers.quantizers", __doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("quantizers-work"), help="folder of data and bundles"
    )
    parser.add_argument("--modelopt-python", help="interpreter that has nvidia-modelopt")
    add_count(parser, "--rows", ROWS, "calibration rows")
    add_count(parser, "--eval-rows", EVAL_ROWS, "rows of the test split")
    return run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
