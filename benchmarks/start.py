"""Measure how a bundle starts, and the memory it takes: fresh processes that answer four questions about a picture of 512 pixels.

Each bundle is measured as it is, and with its optimized graphs kept on disk (`MOIR_EDGE_GRAPH_CACHE`), in turns. The processes that
fill the folder of kept graphs are not counted. The peak counts mapped files; its bound is 1.2 times the bytes of the weights and
120 MB. Without BUNDLE the demo's int4 bundle is made. Rows of bundles that were not started now stay in the page.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import onnxruntime

from benchmarks.common import (
    Check,
    Result,
    add_count,
    markdown_table,
    new_parser,
    replace_between,
    run,
    run_worker,
    take_turns,
    with_kept_rows,
)
from moir_edge.bundle import open_bundle
from moir_edge.evaluation.machine import CpuTimes, describe_machine, load_average
from moir_edge.progress import Progress
from moir_edge.runtime.graph_cache import GRAPH_CACHE_VARIABLE

MARKS = ("<!-- start: begin -->", "<!-- start: end -->")
_MB = 1_000_000
_PEAK_FACTOR, _PEAK_MORE = 1.2, 120 * _MB
_KEPT_MEGABYTES = "4000"
NOTHING, KEPT = "nothing kept", "graphs kept"


def measure(options: argparse.Namespace, progress: Progress) -> Result:
    """Start processes in turns and sum up.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    load_before, cpu = load_average(), CpuTimes()
    with tempfile.TemporaryDirectory() as scratch:
        bundles = options.bundles or [_demo(Path(scratch))]
        records = []
        for done, bundle in enumerate(bundles):
            progress("bundles", done, len(bundles))
            records.append(_bundle(bundle, Path(scratch), options.rounds))
        progress("bundles", len(bundles), len(bundles))
    machine = describe_machine(load_before, cpu.steal_percent())
    rows = _rows(records)
    if options.write is not None:
        kept = with_kept_rows(options.write, *MARKS, rows, _KEY)
        replace_between(options.write, *MARKS, _table(kept))
    record = {
        "machine": machine.model_dump(mode="json"),
        "onnxruntime": onnxruntime.__version__,
        "bundles": records,
    }
    return Result(text=_table(rows), record=record, checks=_checks(records))


def _demo(folder: Path) -> Path:
    from moir_edge.demo import checkpoint_path
    from moir_edge.export import export_bundle

    return export_bundle(checkpoint_path(), folder / "demo-int4", precision="int4")


def _bundle(bundle: Path, scratch: Path, rounds: int) -> dict[str, Any]:
    cache = scratch / f"cache-{bundle.name}"
    weights = {name for entry in open_bundle(bundle).manifest.components.values() for name in entry.data}  # fmt: skip
    variables: Mapping[str, Mapping[str, str]] = {
        NOTHING: {GRAPH_CACHE_VARIABLE: ""},
        KEPT: {GRAPH_CACHE_VARIABLE: _KEPT_MEGABYTES, "XDG_CACHE_HOME": str(cache)},
    }
    samples = take_turns(
        {name: partial(_once, bundle, own) for name, own in variables.items()},
        rounds=rounds,
        warm_up=1,
    )
    return {
        "bundle": bundle.name,
        "weights_bytes": sum((bundle / name).stat().st_size for name in weights),
        "kept_bytes": sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()),
        "samples": samples,
    }


def _once(bundle: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    return run_worker(
        "benchmarks.start_worker", str(bundle), repr(time.time()), variables=variables
    )


def _middle(samples: Sequence[Mapping[str, float]], name: str) -> float:
    return median(sample[name] for sample in samples)


def _peak_bound(record: Mapping[str, Any]) -> float:
    return float(_PEAK_FACTOR * record["weights_bytes"] + _PEAK_MORE)


_HEAD = ("bundle", "ONNX Runtime", "", "first token s", "CPU s to load", "own memory MB", "peak MB", "peak aimed at MB", "on disk MB")  # fmt: skip
_KEY = (0, 2)
"""The columns that tell rows apart: the bundle, and what is kept."""


def _table(rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(_HEAD, rows, right=range(3, len(_HEAD)))


def _rows(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            record["bundle"],
            onnxruntime.__version__,
            name,
            f"{_middle(samples, 'first_token_s'):.2f}",
            f"{_middle(samples, 'load_cpu_s'):.2f}",
            f"{_middle(samples, 'own_bytes') / _MB:.0f}",
            f"{_middle(samples, 'peak_bytes') / _MB:.0f}",
            f"{_peak_bound(record) / _MB:.0f}",
            f"{record['kept_bytes'] / _MB:.0f}" if name == KEPT else "0",
        )
        for record in records
        for name, samples in record["samples"].items()
    ]


def _checks(records: Sequence[Mapping[str, Any]]) -> list[Check]:
    """Hold the better way to start against the bound: graphs kept where ONNX Runtime reads packed weights as they lie."""
    return [
        Check(
            name=f"{record['bundle']}: peak memory in MB",
            value=min(_middle(own, "peak_bytes") for own in record["samples"].values()) / _MB,
            maximum=_peak_bound(record) / _MB,
        )
        for record in records
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("start", __doc__)
    parser.add_argument("bundles", nargs="*", type=Path, metavar="BUNDLE", help="bundles for a CPU")
    add_count(parser, "--rounds", 5, "processes of each kind that count")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table into a page")
    return run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
