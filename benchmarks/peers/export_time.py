"""Time and peak memory of whole exports against transformers' own exporter, on the geometry of SmolVLM-256M.

Each export is a process of its own, start and loading counted; rounds go through all of them, and the starting one rotates.
transformers traces the same components through `decompose_multimodal` and writes nothing. moir-edge writes and hashes the
bundle and checks it against torch. `-o FILE` keeps every sample. `--read FILE --write PAGE` prints the table into a page.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.common import (
    Check,
    Result,
    add_count,
    markdown_table,
    new_parser,
    replace_between,
    run,
    take_turns,
)
from benchmarks.peers.checkpoint import build_checkpoint
from benchmarks.peers.smolvlm_256m import add_work
from moir_edge.children import child_environment, module_command
from moir_edge.errors import DataError, EnvironmentProblem
from moir_edge.progress import Progress

__all__ = ["BEGIN", "END", "main", "measure", "table"]

BEGIN, END = "<!-- export time: begin -->", "<!-- export time: end -->"
PEER, FP32, INT4, DEEP = "transformers", "moir-edge fp32", "moir-edge int4", "moir-edge fp32, 60"
"""Names of the candidates; the last has 60 decoder layers, the others 30."""

Sample = dict[str, float]


def measure(options: argparse.Namespace, progress: Progress) -> Result:
    """Export with every candidate in turn, or read earlier figures.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    if options.read is not None:
        samples = json.loads(options.read.read_text(encoding="utf-8"))
        if not isinstance(samples, dict) or set(samples) != {PEER, FP32, INT4, DEEP}:
            raise DataError(f"{options.read} holds other figures; give what -o wrote")
    else:
        samples = _samples(options, progress)
    text = table(samples)
    if options.write is not None:
        replace_between(options.write, BEGIN, END, text)
    return Result(text=text, record=samples, checks=_checks(samples))


def _samples(options: argparse.Namespace, progress: Progress) -> dict[str, list[Sample]]:
    usual, deep = (
        _checkpoint(options.work / name, layers)
        for name, layers in (("checkpoint", 30), ("checkpoint-60", 60))
    )
    output = options.work / "timed-bundle"
    export = ("moir_edge", "export")
    last = ("-o", str(output), "-q", "--force")
    words = {
        PEER: ("benchmarks.peers.export_worker", str(usual)),
        FP32: (*export, str(usual), *last),
        INT4: (*export, str(usual), *last, "--precision", "int4"),
        DEEP: (*export, str(deep), *last),
    }
    calls = {name: partial(_timed, name, one, progress) for name, one in words.items()}
    return take_turns(calls, rounds=options.rounds, warm_up=0)


def _checkpoint(folder: Path, layers: int) -> Path:
    if not (folder / "processor_config.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Not in this process: on Linux, the peak that is told of a child begins with that of the process that started it.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            pool.submit(build_checkpoint, folder, layers=layers).result()
    return folder


def _timed(name: str, words: Sequence[str], progress: Progress) -> Sample:
    """Run a module in a process, and return its wall time, CPU time, peak memory and the load before."""
    progress(name, 0, 1)
    load, started = os.getloadavg()[0], time.perf_counter()
    process = subprocess.Popen(
        module_command(*words),
        env=child_environment({}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    progress(name, 1, 1)
    if process.returncode:
        raise EnvironmentProblem(
            f"{name} ended with exit code {process.returncode}: {' '.join(words)}"
        )
    return {
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_memory_bytes": used.ru_maxrss * 1024,
        "load": load,
    }


def _median(samples: Mapping[str, Sequence[Sample]], name: str, figure: str) -> float:
    return float(np.median([one[figure] for one in samples[name]]))


def _checks(samples: Mapping[str, Sequence[Sample]]) -> list[Check]:
    """Hold the medians to the bounds: shares of the peer's, and of 60 layers against 30."""
    bounds = (
        (FP32, PEER, "seconds", 0.5),
        (FP32, PEER, "peak_memory_bytes", 0.9),
        (INT4, PEER, "seconds", 0.6),
        (DEEP, FP32, "seconds", 1.3),
    )
    return [
        Check(
            name=f"{figure} of {name} over {other}",
            value=_median(samples, name, figure) / _median(samples, other, figure),
            maximum=most,
        )
        for name, other, figure, most in bounds
    ]


def table(samples: Mapping[str, Sequence[Sample]]) -> str:
    """Return medians as a Markdown table; factors in brackets refer to transformers.

    Args:
        samples: The record of `measure`.
    """
    loads = [one["load"] for each in samples.values() for one in each]
    rounds = len(samples[PEER])
    head = f"{rounds} round(s), {os.cpu_count()} cores, load {min(loads):.1f} to {max(loads):.1f}"
    figures = {"seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_bytes": 1e6}
    rows = [
        [
            name,
            *(
                f"{_median(samples, name, figure) / unit:.0f} "
                f"({_median(samples, name, figure) / _median(samples, PEER, figure):.2f}×)"
                for figure, unit in figures.items()
            ),
        ]
        for name in samples
    ]
    return f"{head}\n\n{markdown_table(['', 'wall s', 'CPU s', 'peak memory MB'], rows)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("peers.export_time", __doc__)
    add_work(parser)
    add_count(parser, "--rounds", 3, "exports of each candidate")
    parser.add_argument("--read", type=Path, metavar="FILE", help="take the samples of FILE")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="print the table into PAGE")
    return run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
