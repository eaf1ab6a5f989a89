"""Time and peak memory of whole exports over the size of the checkpoint, each in a process of its own.

The checkpoints have the geometry of InternVL with Qwen3's decoder, or of Qwen3-VL, and random weights in bfloat16; they are written
a tensor at a time, in the folder `--work` (7.7 GB for all of a family). The peak is that of the export and its children, pages of mapped files counted.
`-o FILE` keeps every sample. `--read FILE --write PAGE` prints the table of earlier runs into a page. Rows of exports that were
not run now stay in it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Check,
    Result,
    markdown_table,
    new_parser,
    replace_between,
    run,
    with_kept_rows,
)
from benchmarks.peers.smolvlm_256m import write_rows
from benchmarks.random_checkpoint import FAMILIES, GEOMETRIES, build_checkpoint
from moir_edge.children import child_environment, module_command
from moir_edge.errors import DataError, EnvironmentProblem
from moir_edge.progress import Progress

__all__ = ["BEGIN", "END", "SETTINGS", "measure", "table"]

BEGIN, END = "<!-- export memory: begin -->", "<!-- export memory: end -->"
GIGABYTE = 1e9
_INTERVAL_S = 0.1
_CALIBRATION_ROWS = 32


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A way to export.

    Attributes:
        arguments: Of the command.
        most: Bound of the peak, as a multiple of the checkpoint's bytes, a gigabyte added.
        calibrated: Whether it takes data.
    """

    arguments: tuple[str, ...]
    most: float
    calibrated: bool = False


SETTINGS = {
    "fp32": Setting(arguments=("--precision", "fp32"), most=2.6),
    "int4": Setting(arguments=("--precision", "int4"), most=1.3),
    "int4 gptq": Setting(
        arguments=("--precision", "int4", "--int4-method", "gptq"), most=2.5, calibrated=True
    ),
}
"""By the name in the table."""


def measure(options: argparse.Namespace, progress: Progress) -> Result:
    """Make the checkpoints and export each in each setting, or read earlier figures.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    samples = _read(options.read) if options.read else []
    chosen = () if options.read else product(options.family, options.size, options.setting)
    wanted = list(chosen)
    for done, each in enumerate(wanted):
        progress("export", done, len(wanted))
        samples.append(_export(options.work, *each))
    progress("export", len(wanted), len(wanted))
    text = table(samples)
    if options.write is not None:
        rows = with_kept_rows(options.write, BEGIN, END, _rows(samples), _KEY)
        replace_between(options.write, BEGIN, END, _printed(sorted(rows, key=_place)))
    return Result(text=text, record=samples, checks=[_check(sample) for sample in samples])


def _read(path: Path) -> list[dict[str, Any]]:
    samples = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(samples, list):
        raise DataError(f"{path} holds no list of samples; give what -o wrote")
    return samples


def _export(work: Path, family: str, size: str, setting: str) -> dict[str, Any]:
    """Export one checkpoint and return what it took."""
    checkpoint, output = work / f"{family}-{size}", work / f"{family}-{size}-bundle"
    stored = build_checkpoint(checkpoint, size, family=family)
    words = ["export", str(checkpoint), "-o", str(output), "-q", "--force"]
    words += SETTINGS[setting].arguments
    if SETTINGS[setting].calibrated:
        words += ["--calib-data", str(write_rows(work, _CALIBRATION_ROWS))]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    process = subprocess.Popen(
        module_command("moir_edge", *words),
        env=child_environment({}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    curve = list(_watch(process))
    seconds = time.perf_counter() - started
    if process.returncode:
        last = (process.stderr.read() if process.stderr else "").strip().splitlines()
        raise EnvironmentProblem(
            f"{family} {size} {setting}: the export failed: {(last or [''])[-1][:300]}"
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "model": FAMILIES[family].name,
        "size": size,
        "setting": setting,
        "checkpoint_bytes": stored,
        "bundle_bytes": sum(path.stat().st_size for path in output.rglob("*") if path.is_file()),
        "seconds": seconds,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_memory_bytes": max(peak for _, _, peak in curve),
        "load": os.getloadavg()[0],
        "memory_curve": [(round(at, 1), resident) for at, resident, _ in _thinned(curve)],
    }


def _watch(process: subprocess.Popen[str]) -> Iterator[tuple[float, int, int]]:
    """Yield seconds, resident bytes of the process and its children, and the most so far, as each process counts it itself."""
    started = time.perf_counter()
    most: dict[int, int] = {}
    while process.poll() is None:
        figures = {one: _memory(one) for one in _family(process.pid)}
        resident = sum(now for now, _ in figures.values())
        # A process counts its own peak; of several at once, what they had together was seen here.
        most |= {one: max(peak, most.get(one, 0)) for one, (_, peak) in figures.items()}
        yield time.perf_counter() - started, resident, max(resident, *most.values(), 0)
        time.sleep(_INTERVAL_S)


def _family(process: int) -> list[int]:
    """Return a process and all under it."""
    found = [process]
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:  # it has ended meanwhile
            continue
        for child in children:
            found += _family(int(child))
    return found


def _memory(process: int) -> tuple[int, int]:
    """Return the resident bytes of a process, mapped files counted, now and at most; zeros of one that has ended."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0, 0
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    now, most = (int(lines.get(name, "0").split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


def _thinned(curve: Sequence[tuple[float, int, int]]) -> Sequence[tuple[float, int, int]]:
    return curve[:: max(1, len(curve) // 200)]


def _check(sample: Mapping[str, Any]) -> Check:
    """Return the bound of the peak, which holds for the largest checkpoint; smaller ones only have to be measured."""
    stored = sample["checkpoint_bytes"]
    largest = sample["size"] == list(GEOMETRIES)[-1]
    most = SETTINGS[sample["setting"]].most * stored + GIGABYTE
    return Check(
        name=f"{sample['model']} {sample['size']} {sample['setting']}: peak memory in GB",
        value=sample["peak_memory_bytes"] / GIGABYTE,
        maximum=most / GIGABYTE if largest else None,
    )


def table(samples: Sequence[Mapping[str, Any]]) -> str:
    """Return the Markdown table of some samples."""
    return _printed(_rows(samples))


_HEAD = ("model", "parameters", "checkpoint GB", "export", "wall s", "CPU s", "peak GB", "peak / checkpoint")  # fmt: skip
_KEY = tuple(map(_HEAD.index, ("model", "parameters", "export")))


def _rows(samples: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [
            sample["model"],
            sample["size"],
            f"{sample['checkpoint_bytes'] / GIGABYTE:.2f}",
            sample["setting"],
            f"{sample['seconds']:.0f}",
            f"{sample['cpu_seconds']:.0f}",
            f"{sample['peak_memory_bytes'] / GIGABYTE:.2f}",
            f"{sample['peak_memory_bytes'] / sample['checkpoint_bytes']:.2f}",
        ]
        for sample in samples
    ]


def _place(row: Sequence[str]) -> list[int]:
    """Return where a row stands: in the order of families, sizes and settings."""
    order = [family.name for family in FAMILIES.values()], list(GEOMETRIES), list(SETTINGS)
    cells = [row[at] for at in _KEY]
    return [
        names.index(one) if one in names else len(names)
        for names, one in zip(order, cells, strict=True)
    ]


def _printed(rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(_HEAD, rows, right=(2, 4, 5, 6, 7))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("export_memory", __doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("export-work"), help="folder of checkpoints and bundles"
    )
    families, sizes, settings = list(FAMILIES), list(GEOMETRIES), list(SETTINGS)
    parser.add_argument("--family", nargs="+", choices=families, default=families)
    parser.add_argument("--size", nargs="+", choices=sizes, default=sizes, help="parameters")
    parser.add_argument("--setting", nargs="+", choices=settings, default=settings[:2])
    parser.add_argument("--read", type=Path, metavar="FILE", help="measure nothing: read this")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table into a page")
    return run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
