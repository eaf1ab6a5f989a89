"""The command of the fuzz suite: `python -m tests.fuzz [--cases N] [--area A,B] [--seed S] [--slice] [--json]`, from the root."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.area import area_names, find_area
from tests.fuzz.running import run_jobs
from tests.fuzz.seeds import make_seeds
from tests.fuzz.table import faults_text, summary, table_text

__all__ = ["main"]

_WHOLE = 10_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite; return 1 if it found a fault."""
    asked = _parser().parse_args(arguments)
    names = asked.area.split(",") if asked.area else area_names()
    unknown = sorted(set(names) - set(area_names()))
    if unknown:
        sys.exit(f"no area {', '.join(unknown)}; known: {', '.join(area_names())}")
    with tempfile.TemporaryDirectory(prefix="fuzz-seeds-") as temporary:
        seeds = Path(asked.seeds or temporary)
        seeds.mkdir(parents=True, exist_ok=True)
        indices = {name: _indices(name, asked) for name in names}
        wanted = {name: chosen for name, chosen in indices.items() if chosen}
        most = 1 if asked.slice else None
        make_seeds(seeds, {seed for name in wanted for seed in find_area(name).needs[:most]})
        results = run_jobs(wanted, seed=asked.seed, seeds=seeds, jobs=asked.jobs, keep=asked.keep)
    figures = summary(results, asked.seed)
    _print(figures, as_json=asked.json)
    return 1 if figures["faults"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, help=f"of all areas together; {_WHOLE} as shared out")
    parser.add_argument("--area", help="these areas only, with commas")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another run")
    parser.add_argument("--index", type=int, help="this case only")
    parser.add_argument(
        "--keep", help="with --index: an empty folder where the altered input stays"
    )
    parser.add_argument("--slice", action="store_true", help="the short run of `make test`")
    parser.add_argument(
        "--seeds", help="keep the unaltered inputs in this folder, and take them from it"
    )
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true", help="print figures and faults as JSON")
    return parser


def _indices(name: str, asked: argparse.Namespace) -> list[int]:
    """Return the cases of an area that the command line asks for."""
    area = find_area(name)
    if asked.index is not None:
        return [asked.index]
    if asked.slice:
        return list(range(area.sliced))
    if asked.cases is None:
        return list(range(area.share))
    names = asked.area.split(",") if asked.area else area_names()
    whole = sum(find_area(one).share for one in names)
    return list(range(max(1, round(asked.cases * area.share / whole))))


def _print(figures: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        text = json.dumps(figures, indent=1)
    else:
        text = table_text(figures)
        if figures["faults"]:
            text += "\n\n" + faults_text(figures)
    sys.stdout.reconfigure(errors="backslashreplace")  # messages may name halves of characters
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
