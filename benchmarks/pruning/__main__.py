"""Measure what dropping image tokens costs in answers and saves in time and memory.

Exports the demo and answers its test rows, clean and degraded, over the share that is dropped and every way to choose: by the
router's density, by similarity to kept tokens, by norm and at random. With ``--bundle`` it times a bundle of SmolVLM-256M's
geometry (`benchmarks.peers.smolvlm_256m` makes one) on a prompt of 1,088 image tokens, in turns, and takes its memory. The
exit code is 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import Result, add_count, new_parser, replace_between, run
from benchmarks.pruning.page import (
    accuracy_checks,
    accuracy_tables,
    speed_checks,
    speed_tables,
)
from moir_edge.progress import Progress, single_step

__all__ = ["main", "measure"]

MARKS = ("<!-- pruning {}: begin -->", "<!-- pruning {}: end -->")
_ROWS = 720
_CACHE = 1 << 30


def measure(options: argparse.Namespace, progress: Progress) -> Result:
    """Measure both parts, or the one that is asked for.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    record: dict[str, Any] = {}
    texts, checks = [], []
    if not options.speed_alone:
        record["rows"], record["accuracy"] = options.rows, _accuracy(options, progress)
        texts.append(accuracy_tables(record["accuracy"]))
        checks += accuracy_checks(record["accuracy"])
        _write(options.write, "answers", texts[-1])
    if options.bundle is not None:
        from benchmarks.pruning.speed import measure_speed

        with single_step(progress, "prompts of 1,088 image tokens"):
            found = measure_speed(
                options.bundle,
                rounds=options.rounds,
                threads=options.threads,
                others=not options.density_alone,
            )
        record["speed"] = found
        texts.append(speed_tables(found))
        checks += speed_checks(found)
        _write(options.write, "times", texts[-1])
    return Result(text="\n\n".join(texts), record=record, checks=checks)


def _write(page: Path | None, part: str, text: str) -> None:
    if page is not None:
        replace_between(page, MARKS[0].format(part), MARKS[1].format(part), text)


def _accuracy(options: argparse.Namespace, progress: Progress) -> list[dict[str, Any]]:
    import moir_edge
    from benchmarks.pruning.accuracy import Variants, measure_accuracy
    from benchmarks.study.settings import StudySettings
    from moir_edge.data.degradations import parse_degradation
    from moir_edge.data.rows import read_rows
    from moir_edge.data.variants import ImageStore, degraded_rows
    from moir_edge.demo import checkpoint_path, demo_rows, write_jsonl
    from moir_edge.export import export_bundle

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bundle = export_bundle(options.checkpoint or checkpoint_path(), folder / "bundle")
        rows = read_rows(write_jsonl(demo_rows("test", count=options.rows), folder / "data"))
        store, study = ImageStore(folder), StudySettings()
        degraded = [
            degraded_rows(rows, parse_degradation(label), store, seed=0).rows
            for label in (study.blur, study.dropout)
        ]
        model = moir_edge.load(
            bundle, threads=options.threads, provider="cpu", image_cache_bytes=_CACHE
        )
        conditions: dict[str, Variants] = {"clean": [rows], "degraded": degraded}
        return measure_accuracy(model, conditions, rows, progress)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("pruning", __doc__)
    add_count(parser, "--rows", _ROWS, "rows of the test split")
    add_count(parser, "--rounds", 10, "turns of the timed prompts")
    add_count(parser, "--threads", 1, "threads of one operator")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FOLDER", help="in place of the shipped demo checkpoint"
    )
    parser.add_argument(
        "--bundle", type=Path, metavar="FOLDER", help="bundle of SmolVLM-256M's geometry to time"
    )
    parser.add_argument("--speed-alone", action="store_true", help="leave the demo's answers out")
    parser.add_argument(
        "--density-alone", action="store_true", help="time no other way to choose than density"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="page whose tables are replaced")
    return run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
