"""Time and peak memory of INT4 for every component of the SmolVLM-256M geometry, each method in a process of its own.

    python benchmarks/peers/quantize_256m.py -o result.json

Starts from the fp32 graphs on disk and ends with the INT4 graphs on disk. Methods that go by data are calibrated first, with
pictures of noise, which is timed apart. Needs a checkout installed with `pip install -e '.[export]'`; checkpoint and fp32
bundle (1.8 GB) are made once, in the folder `--work`, which takes minutes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers.smolvlm_256m import prepare, write_rows
from moir_edge.bundle import open_bundle
from moir_edge.children import child_environment, module_command
from moir_edge.errors import EnvironmentProblem, MoirEdgeError
from moir_edge.finite import json_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

    from moir_edge.calibration.taps import GraphObservers

METHODS = ("rtn", "hqq", "awq", "gptq")
COMPONENTS = ("vision", "embedding", "decoder")
MAX_SECONDS = 60.0
MAX_MEMORY_RATIO = 2.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, measure each method, print the table and write the JSON; returns the exit code.

    Args:
        arguments: Of the command line.

    Returns:
        0, or 1 if round-to-nearest takes more than a minute or 2.5 times the fp32 weights, or something failed.
    """
    options = _options(arguments)
    if options.worker is not None:
        print(json_text(quantize_bundle(options.work, options.worker, options.rows)))
        return 0
    try:
        prepare(options.work, ("fp32",))
        results = [_in_process(method, options) for method in options.method or METHODS]
    except MoirEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options.output.write_text(json_text(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))
    return 0 if all(_passes(one) for one in results if one["method"] == "rtn") else 1


def quantize_bundle(work: Path, method: str, rows: int) -> dict[str, Any]:
    """Quantize all components of the fp32 bundle in this process.

    Args:
        work: Folder with the bundle.
        method: Of INT4.
        rows: Calibration rows, for a method that needs them.

    Returns:
        Seconds of each phase, peak and base memory in bytes, weights before and after.
    """
    import onnx_ir as ir

    from moir_edge.calibration.layers import LayerOptions, quantize_layers
    from moir_edge.calibration.methods.registry import get_method
    from moir_edge.graphs.writing import write_graphs

    manifest = open_bundle(work / "fp32", verify=False).manifest
    base, seconds = _peak_bytes(), dict.fromkeys(("calibrate", "quantize", "write"), 0.0)
    processor_seconds = time.process_time()
    models = {
        name: ir.load(work / "fp32" / entry.graph) for name, entry in manifest.components.items()
    }
    observers: Mapping[str, GraphObservers] = {}
    if get_method(method).needs_data:
        with _timed(seconds, "calibrate"):
            observers = _observe(models, work, rows)
    with _timed(seconds, "quantize"):
        for name in COMPONENTS:
            quantize_layers(
                models[name],
                "int4",
                options=LayerOptions(int4_method=method),
                observers=observers.get(name),
            )
    with tempfile.TemporaryDirectory(dir=work) as folder, _timed(seconds, "write"):
        written = write_graphs(models, Path(folder))
    return {
        "method": method,
        "rows": rows if observers else 0,
        "seconds": seconds,
        "processor_seconds": time.process_time() - processor_seconds,
        "peak_memory_bytes": _peak_bytes(),
        "base_memory_bytes": base,
        "fp32_bytes": sum(entry.tensor_bytes for entry in manifest.components.values()),
        "int4_bytes": sum(graph.tensor_bytes for graph in written.values()),
    }


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the results as a Markdown table.

    Args:
        results: From `quantize_bundle`.
    """
    lines = [
        "| | calibrate s | quantize and write s | processor s | peak memory MB | × fp32 weights | weights MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in results:
        seconds = one["seconds"]
        calibrated = f"{seconds['calibrate']:.0f} ({one['rows']} rows)" if one["rows"] else "–"
        cells = (
            f"`{one['method']}`",
            calibrated,
            f"{seconds['quantize'] + seconds['write']:.0f}",
            f"{one['processor_seconds']:.0f}",
            f"{one['peak_memory_bytes'] / 1e6:.0f}",
            f"{_memory_ratio(one):.2f}",
            f"{one['int4_bytes'] / 1e6:.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _observe(models: Mapping[str, ir.Model], work: Path, rows: int) -> dict[str, GraphObservers]:
    from moir_edge.calibration.collection import collect
    from moir_edge.calibration.rows import CalibrationRows
    from moir_edge.runtime.processor import Processor

    folder = work / "fp32"
    facts = open_bundle(folder, verify=False).manifest.model
    data = CalibrationRows(
        write_rows(work, rows), Processor(folder, facts), limit=rows, max_bad_rows=0
    )
    components = {"vision": True, "decoder": True}
    return collect(models, facts, data, components=components, decode_steps=0)


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[phase] = time.perf_counter() - start


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _memory_ratio(one: Mapping[str, Any]) -> float:
    return float(one["peak_memory_bytes"] / one["fp32_bytes"])


def _passes(one: Mapping[str, Any]) -> bool:
    return sum(one["seconds"].values()) <= MAX_SECONDS and _memory_ratio(one) <= MAX_MEMORY_RATIO


def _in_process(method: str, options: argparse.Namespace) -> dict[str, Any]:
    print(f"{method} …", file=sys.stderr, flush=True)
    command = module_command("benchmarks.peers.quantize_256m", "--worker", method)
    command += ["--work", str(options.work), "--rows", str(options.rows)]
    done = subprocess.run(
        command, env=child_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EnvironmentProblem(f"{method} ended with exit code {done.returncode}: {last}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    parser.add_argument(
        "--work", type=Path, default=Path("peers-work"), help="folder of checkpoint and bundle"
    )
    parser.add_argument("--method", action="append", choices=METHODS, help="repeatable; all")
    parser.add_argument("--rows", type=int, default=8, help="calibration rows of awq and gptq")
    parser.add_argument("--worker", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.output is None and options.worker is None:
        parser.error("the following arguments are required: -o/--output")
    if options.rows < 1:
        parser.error("--rows must be at least 1")
    options.work.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    sys.exit(main())
