"""Measure what half precision on a processor saves and costs: disk, loading, memory and speed, on SmolVLM-256M's geometry.

Each bundle is opened in a process of its own, with one thread. Times are processor times, which other work disturbs little.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import Result, add_count, markdown_table, new_parser, run, run_worker
from benchmarks.peers.checkpoint import PROMPT
from benchmarks.peers.smolvlm_256m import add_work, prepare, write_rows
from moir_edge.finite import json_text
from moir_edge.progress import Progress

__all__ = ["main", "measure", "measure_bundle", "table"]

PRECISIONS = ("fp32", "fp16", "bf16")


def measure(options: argparse.Namespace, progress: Progress) -> Result:
    """Measure every bundle.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    prepare(options.work, PRECISIONS, progress)
    write_rows(options.work, 1)
    results = []
    for at, precision in enumerate(PRECISIONS):
        progress("measure", at, len(PRECISIONS))
        words = (
            "--worker",
            precision,
            "--work",
            str(options.work),
            "--tokens",
            str(options.tokens),
        )
        results.append(run_worker("benchmarks.peers.half_storage", *words))
    progress("measure", len(PRECISIONS), len(PRECISIONS))
    return Result(text=table(results), record=results)


def measure_bundle(work: Path, precision: str, tokens: int) -> dict[str, Any]:
    """Open a bundle in this process, answer once, and return its figures.

    Args:
        work: Folder of the bundles.
        precision: Names the bundle.
        tokens: Of the answers, besides the first.
    """
    import moir_edge
    from moir_edge.runtime.timing import peak_memory_bytes

    folder = work / precision
    picture = work / "noise-1" / "0.png"
    start = time.process_time()
    model = moir_edge.load(folder, threads=1)
    loaded = time.process_time()

    def answer(count: int) -> tuple[float, int]:
        before = time.process_time()
        done = model.generate(PROMPT, picture, max_new_tokens=count)
        return time.process_time() - before, len(done.token_ids[0])

    answer(1)
    (first, _), (whole, given) = answer(1), answer(tokens + 1)
    return {
        "precision": precision,
        "weights_bytes": sum(path.stat().st_size for path in folder.glob("*.data")),
        "load_s": loaded - start,
        "peak_memory_bytes": peak_memory_bytes(),
        "first_token_s": first,
        "token_s": (whole - first) / max(1, given - 1),
    }


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the results as a Markdown table.

    Args:
        results: From `measure_bundle`.
    """
    head = ["", "weights MB", "load s", "first token s", "further token ms", "peak memory MB"]
    return markdown_table(
        head,
        [
            [
                f"`{one['precision']}`",
                f"{one['weights_bytes'] / 1e6:.0f}",
                f"{one['load_s']:.1f}",
                f"{one['first_token_s']:.2f}",
                f"{1e3 * one['token_s']:.0f}",
                f"{one['peak_memory_bytes'] / 1e6:.0f}",
            ]
            for one in results
        ],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("peers.half_storage", __doc__)
    add_work(parser)
    add_count(parser, "--tokens", 16, "decoded tokens of an answer")
    parser.add_argument("--worker", choices=PRECISIONS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker is not None:
        found = measure_bundle(options.work, options.worker, options.tokens)
        sys.stdout.write(json_text(found))
        return 0
    return run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
