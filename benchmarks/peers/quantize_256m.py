"""Time and peak memory of INT4 for every component of the SmolVLM-256M geometry, each method in a process of its own.

Starts from the fp32 graphs on disk and ends with the INT4 graphs on disk. Methods that go by data are calibrated first, with
pictures of noise, which is timed apart. Needs a checkout installed with `pip install -e '.[export]'`; checkpoint and fp32
bundle (1.8 GB) are made once, in the folder `--work`, which takes minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import (
    Check,
    Result,
    add_count,
    markdown_table,
    new_parser,
    run,
    run_worker,
)
from benchmarks.peers.smolvlm_256m import add_work, prepare, write_rows
from moir_edge.bundle import open_bundle
from moir_edge.bundle.files import ModelFiles
from moir_edge.finite import json_text
from moir_edge.progress import Progress, single_step
from moir_edge.runtime.timing import peak_memory_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

    from moir_edge.calibration.taps import GraphObservers

METHODS = ("rtn", "hqq", "awq", "gptq")
COMPONENTS = ("vision", "embedding", "decoder")
MAX_SECONDS = 60.0
MAX_MEMORY_RATIO = 2.5


def measure(options: argparse.Namespace, progress: Progress) -> Result:
    """Prepare, and measure each method in a process of its own.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    prepare(options.work, ("fp32",), progress)
    results = []
    for method in options.method or METHODS:
        with single_step(progress, method):
            results.append(_in_process(method, options))
    checks = tuple(check for one in results if one["method"] == "rtn" for check in _checks(one))
    return Result(text=table(results), record=results, checks=checks)


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
    base, seconds = peak_memory_bytes(), dict.fromkeys(("calibrate", "quantize", "write"), 0.0)
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
        "peak_memory_bytes": peak_memory_bytes(),
        "base_memory_bytes": base,
        "fp32_bytes": sum(entry.tensor_bytes for entry in manifest.components.values()),
        "int4_bytes": sum(graph.tensor_bytes for graph in written.values()),
    }


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the results as a Markdown table.

    Args:
        results: From `quantize_bundle`.
    """
    head = ["", "calibrate s", "quantize and write s", "processor s", "peak memory MB"]
    head += ["× fp32 weights", "weights MB"]
    return markdown_table(head, map(_cells, results))


def _cells(one: Mapping[str, Any]) -> list[str]:
    seconds = one["seconds"]
    return [
        f"`{one['method']}`",
        f"{seconds['calibrate']:.0f} ({one['rows']} rows)" if one["rows"] else "–",
        f"{seconds['quantize'] + seconds['write']:.0f}",
        f"{one['processor_seconds']:.0f}",
        f"{one['peak_memory_bytes'] / 1e6:.0f}",
        f"{_memory_ratio(one):.2f}",
        f"{one['int4_bytes'] / 1e6:.0f}",
    ]


def _observe(models: Mapping[str, ir.Model], work: Path, rows: int) -> dict[str, GraphObservers]:
    from moir_edge.calibration.collection import collect
    from moir_edge.calibration.rows import CalibrationRows
    from moir_edge.runtime.processor import Processor

    folder = work / "fp32"
    facts = open_bundle(folder, verify=False).manifest.model
    data = CalibrationRows(
        write_rows(work, rows), Processor(ModelFiles(folder), facts), limit=rows, max_bad_rows=0
    )
    components = {"vision": True, "decoder": True}
    return collect(models, facts, data, components=components, decode_steps=0)


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[phase] = time.perf_counter() - start


def _memory_ratio(one: Mapping[str, Any]) -> float:
    return float(one["peak_memory_bytes"] / one["fp32_bytes"])


def _checks(one: Mapping[str, Any]) -> tuple[Check, Check]:
    seconds, ratio = sum(one["seconds"].values()), _memory_ratio(one)
    return (
        Check(name=f"{one['method']}: seconds", value=seconds, maximum=MAX_SECONDS),
        Check(
            name=f"{one['method']}: peak memory over fp32 weights",
            value=ratio,
            maximum=MAX_MEMORY_RATIO,
        ),
    )


def _in_process(method: str, options: argparse.Namespace) -> dict[str, Any]:
    return run_worker(
        "benchmarks.peers.quantize_256m",
        *("--worker", method, "--work", str(options.work), "--rows", str(options.rows)),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 1 if round-to-nearest takes too much time or memory.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("peers.quantize_256m", __doc__)
    add_work(parser)
    parser.add_argument("--method", action="append", choices=METHODS, help="repeatable; all")
    add_count(parser, "--rows", 8, "calibration rows of awq and gptq")
    parser.add_argument("--worker", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker is not None:
        sys.stdout.write(json_text(quantize_bundle(options.work, options.worker, options.rows)))
        return 0
    return run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
