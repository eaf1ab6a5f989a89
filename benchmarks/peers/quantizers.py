"""Quantize the demo's vision tower and decoder to int8 with moir-edge and with its peers, and measure what comes out.

    python benchmarks/peers/quantizers.py -o quantizers.json --modelopt-python peers-env/bin/python

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
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import moir_edge
from benchmarks.peers.quantizer_feeds import COMPONENTS, write_feeds
from moir_edge.bundle import open_bundle, seal, staged_bundle
from moir_edge.children import child_environment, module_command
from moir_edge.cli.progress import show_progress
from moir_edge.errors import MoirEdgeError
from moir_edge.evaluation.machine import CpuTimes, describe_machine, load_average
from moir_edge.finite import json_text
from moir_edge.ownership import matches, remove_files

if TYPE_CHECKING:
    from moir_edge.evaluation.comparison.schema import ComparisonReport

ROWS, EVAL_ROWS = 256, 1200
_WORKER = "benchmarks.peers.quantizer_worker"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to quantize.

    Attributes:
        name: Of its bundle and its line in the table.
        method: What the worker is told.
        same_nodes: Whether nodes that moir-edge leaves alone are excluded.
    """

    name: str
    method: str
    same_nodes: bool = False


CONTENDERS = (
    Contender(name="moir-edge", method="moir-edge"),
    Contender(name="onnxruntime", method="onnxruntime"),
    Contender(name="onnxruntime-same-nodes", method="onnxruntime", same_nodes=True),
    Contender(name="modelopt", method="modelopt"),
    Contender(name="modelopt-same-nodes", method="modelopt", same_nodes=True),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, quantize, compare, print the table and write the JSON; returns the exit code.

    Args:
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--output", required=True, help="JSON file to write")
    parser.add_argument("--work", default="quantizers-work", help="folder of data and bundles")
    parser.add_argument("--modelopt-python", help="interpreter that has nvidia-modelopt")
    parser.add_argument("--rows", type=int, default=ROWS, help="calibration rows")
    parser.add_argument("--eval-rows", type=int, default=EVAL_ROWS, help="rows of the test split")
    options = parser.parse_args(arguments)
    try:
        result = measure(options)
    except MoirEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    Path(options.output).write_text(json_text(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run every quantizer, then compare the bundles.

    Args:
        options: Of the command line.

    Returns:
        The result as JSON data.
    """
    work = Path(options.work).absolute()
    bundle, calibration, evaluation = prepare(work, options.rows, options.eval_rows)
    load_before, cpu = load_average(), CpuTimes()
    runs: dict[str, dict[str, Any]] = {}
    for contender in CONTENDERS:
        python = options.modelopt_python if contender.method == "modelopt" else sys.executable
        if python is None:
            runs[contender.name] = {"error": "not run: give --modelopt-python"}
            continue
        print(f"quantizing: {contender.name}", file=sys.stderr, flush=True)
        runs[contender.name] = quantize(contender, python, bundle, calibration, work)
    machine = describe_machine(load_before, cpu.steal_percent())
    built = [name for name, run in runs.items() if "error" not in run]
    report = _compare(bundle, [work / "bundles" / name for name in built], evaluation)
    for name, candidate in zip(built, report.candidates[1:], strict=True):
        runs[name] |= _figures(candidate)
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine.model_dump(mode="json"),
        "settings": {"rows": options.rows, "eval_rows": options.eval_rows, "threads": 1},
        "fp32_bytes": _component_bytes(bundle),
        "quantizers": runs,
    }


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
    contender: Contender, python: str, bundle: Path, calibration: Path, work: Path
) -> dict[str, Any]:
    """Let one quantizer work in a process of its own, and put its graphs into a copy of the bundle.

    Returns:
        What the worker measured, or why it failed.
    """
    folder = work / "graphs" / contender.name
    remove_files(folder, lambda path: matches(path, ("*.onnx", "*.data", "kept.json")))
    folder.mkdir(parents=True, exist_ok=True)
    kept = work / "graphs" / "moir-edge" / "kept.json" if contender.same_nodes else ""
    root = str(Path(moir_edge.__file__).resolve().parents[1])
    environment = child_environment({"OMP_NUM_THREADS": "1"})
    paths = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    done = subprocess.run(
        module_command(
            _WORKER,
            *map(str, (contender.method, bundle, calibration, folder, kept)),
            python=python,
        ),
        env={**environment, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    record: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    output = work / "bundles" / contender.name
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


def _compare(reference: Path, bundles: Sequence[Path], data: Path) -> ComparisonReport:
    """Score all bundles on the rows; latency is not what is asked here, so one row is timed."""
    from moir_edge.evaluation import CompareSettings, compare

    with show_progress("quantizers") as progress:
        settings = CompareSettings(threads=1, latency_rows=1, latency_repeats=1)
        return compare(reference, bundles, data, settings=settings, progress=progress)


def _figures(candidate: Any) -> dict[str, Any]:
    routing, tokens = candidate.routing, candidate.token_agreement
    return {
        "recovery": candidate.recovery.model_dump() if candidate.recovery else None,
        "tasks": {name: task.score for name, task in candidate.tasks.items()},
        "identical": tokens.identical if tokens else None,
        "index_agreement": routing.index_agreement if routing else None,
        "matched_cosine": routing.matched_cosine if routing else None,
    }


def table(result: dict[str, Any]) -> str:
    """Return the figures as Markdown, factors against moir-edge in brackets."""
    runs = result["quantizers"]
    ours = runs["moir-edge"]
    lines = [
        "| quantizer | recovery | same tokens | router indices | cosine | time s | CPU s | peak memory MB | of it work | size MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(name, run, ours) for name, run in runs.items()]
    return "\n".join(lines)


def _line(name: str, run: dict[str, Any], ours: dict[str, Any]) -> str:
    if "error" in run:
        return f"| {name} | {run['error']} |"
    recovery = run["recovery"]

    def factor(key: str, scale: float, digits: int) -> str:
        return f"{run[key] * scale:.{digits}f} ({run[key] / max(ours[key], 1e-9):.1f}×)"

    return (
        f"| {name} | {100 * recovery['value']:.1f} % ({100 * recovery['low']:.1f}–{100 * recovery['high']:.1f}) "
        f"| {100 * run['identical']:.1f} % | {100 * run['index_agreement']:.2f} % | {run['matched_cosine']:.4f} "
        f"| {factor('seconds', 1, 1)} | {factor('cpu_seconds', 1, 1)} "
        f"| {factor('peak_memory_bytes', 1e-6, 0)} | {factor('work_memory_bytes', 1e-6, 0)} "
        f"| {run['bytes'] / 1e6:.2f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
