"""Measure moir-edge against transformers on the geometry of SmolVLM-256M, in turns, in one run.

Needs a checkout installed with `pip install -e '.[export]'`. Checkpoint and bundles (2.2 GB) are made once, in the folder
`--work`, which takes minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common import Result, add_count, markdown_table, new_parser, run
from benchmarks.peers.checkpoint import IMAGE_SIZE, PROMPT, PROMPT_TOKENS, build_checkpoint
from benchmarks.peers.limits import decode_bytes, limit_ms, read_bandwidth
from moir_edge.bundle import open_bundle
from moir_edge.calibration import CalibrationSettings
from moir_edge.data.rows import Row
from moir_edge.errors import DataError
from moir_edge.evaluation.candidates import TimedAnswer, spec_of
from moir_edge.evaluation.comparison.figures import router_overhead
from moir_edge.evaluation.machine import CpuTimes, describe_machine, load_average
from moir_edge.evaluation.measure import (
    LatencyPlan,
    OverheadPairs,
    measure_latency,
    measure_overhead,
)
from moir_edge.evaluation.process import CandidateProcess, Measured
from moir_edge.finite import json_text
from moir_edge.ownership import CHECKPOINT
from moir_edge.precisions import INT8, INT8_WEIGHT_ONLY
from moir_edge.progress import Progress, silent, single_step
from moir_edge.staging import staged_folder
from moir_edge.targets import available_precisions, get_target
from moir_edge.threads import default_threads
from moir_edge.whole_files import write_whole

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["add_work", "figures", "main", "measure", "prepare", "table", "tile", "write_rows"]

PRECISIONS = ("fp32", "int8-weight-only", "int4")
WARM_UP = 1
CALIBRATION_ROWS = 4


def add_work(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the folder of `prepare`."""
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("peers-work"),
        metavar="FOLDER",
        help="keeps checkpoint and bundles (default: peers-work)",
    )


def prepare(
    work: Path, precisions: Sequence[str] = PRECISIONS, progress: Progress = silent
) -> tuple[Path, list[Path]]:
    """Make what is missing of the checkpoint and its bundles.

    Args:
        work: Folder that keeps them; what stands there is used as it is.
        precisions: Of the bundles; ``int4-head-int4`` gives one component another one, and ``int4-block-64`` blocks of 64.
        progress: Called as ``progress(stage, done, total)``.

    Returns:
        The checkpoint and the bundles, in the order of `precisions`.
    """
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / "checkpoint"
    bundles = [work / precision for precision in precisions]
    if not (checkpoint / "processor_config.json").is_file():
        with (
            single_step(progress, "checkpoint with random weights"),
            staged_folder(checkpoint, CHECKPOINT) as folder,
        ):
            build_checkpoint(folder)
    missing = [path for path in bundles if not path.exists()]
    if missing:
        from moir_edge.export import assemble, load_checkpoint, trace_components

        traced = trace_components(load_checkpoint(checkpoint), progress=progress)
        for path in missing:
            with single_step(progress, f"bundle {path.name}"):
                assemble(traced, path, target="cpu", **_options(path.name, work))
    return checkpoint, bundles


def _options(name: str, work: Path) -> dict[str, Any]:
    """Return the options of a bundle, by its name."""
    if name == INT8_WEIGHT_ONLY:
        return {"precision": name}
    precision, *words = name.split("-")
    given = dict(zip(words[::2], words[1::2], strict=True))
    options: dict[str, Any] = {"precision": precision}
    if block := given.pop("block", None):
        options["int4_block_size"] = int(block)
    if given:
        options["component_precision"] = given
    if INT8 in given.values():
        rows = write_rows(work, CALIBRATION_ROWS)
        options["calibration"] = CalibrationSettings(
            data=rows, rows=CALIBRATION_ROWS, decode_steps=1
        )
    return options


def measure(options: argparse.Namespace, progress: Progress) -> Result:
    """Run every phase.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    checkpoint, bundles = prepare(options.work, options.precisions, progress=progress)
    rows = [_row(options.work)]
    threads = options.threads or default_threads()
    load_before = load_average()
    bandwidth = read_bandwidth(threads)
    plan = LatencyPlan(
        rows=(0,), repeats=options.rounds, warm_up=WARM_UP, max_new_tokens=options.tokens + 1
    )
    with ExitStack() as stack:
        candidates: list[Measured] = []
        for source in (checkpoint, *bundles):
            spec = spec_of(source, threads=threads, max_new_tokens=options.tokens + 1)
            with single_step(progress, f"loading {source.name}"):
                candidates.append(stack.enter_context(CandidateProcess(spec, rows)))
        cpu = CpuTimes()
        timed = measure_latency(candidates, plan, progress)
        peaks = [one.peak_memory() for one in candidates]
        pairs = measure_overhead(candidates, plan, progress)
        machine = describe_machine(load_before, cpu.steal_percent())
    bandwidth += read_bandwidth(threads)
    record = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine.model_dump(mode="json"),
        "settings": {"threads": threads, "rounds": options.rounds, "tokens": options.tokens},
        "bandwidth_bytes_per_s": bandwidth,
        "candidates": [
            figures(one, timed[at], pairs[at], peaks[at], max(bandwidth))
            for at, one in enumerate(candidates)
        ],
    }
    return Result(text=table(record), record=record)


def figures(
    candidate: Measured,
    timed: Sequence[TimedAnswer],
    pairs: OverheadPairs | None,
    peak_memory_bytes: int,
    bandwidth: float,
) -> dict[str, Any]:
    """Return the medians of one candidate, its limit and its raw samples.

    Args:
        candidate: The candidate.
        timed: Its answers.
        pairs: First tokens with the router on and off.
        peak_memory_bytes: Of its process.
        bandwidth: Bytes per second that memory delivers at best.
    """
    source, facts = Path(candidate.spec.source), candidate.loaded.facts
    decode_ms = float(np.median([ms for one in timed for ms in one.token_ms]))
    context = PROMPT_TOKENS + len(timed[0].token_ms) // 2
    is_bundle = candidate.spec.kind == "bundle"
    # torch reads the same float32 weights as the fp32 bundle
    bundle = open_bundle(source if is_bundle else source.parent / PRECISIONS[0], verify=False)
    reads = decode_bytes(bundle.manifest, context)
    if pairs is None:
        raise DataError(f"{source} has no router; delete it, and the next run makes it anew")
    overhead = router_overhead(pairs, seed=0)
    return {
        "name": "moir-edge" if is_bundle else "transformers eager",
        "precision": facts.precision,
        "component_precisions": dict(facts.component_precisions),
        "backend": facts.backend,
        "ttft_ms": float(np.median([one.ttft_ms for one in timed])),
        "prefill_ms": float(np.median([one.component_ms["prefill"] for one in timed])),
        "vision_ms": float(np.median([one.component_ms["vision"] for one in timed])),
        "decode_ms_per_token": decode_ms,
        "decode_limit_ms": limit_ms(reads, bandwidth),
        "decode_bytes_per_token": reads,
        "router_overhead": overhead.model_dump(mode="json") if overhead else None,
        "weights_bytes": facts.weights_bytes,
        "peak_memory_bytes": peak_memory_bytes,
        "libraries_memory_bytes": candidate.loaded.libraries_memory_bytes,
        "samples": [
            {key: value for key, value in asdict(one).items() if key != "answer"} for one in timed
        ],
    }


def table(result: dict[str, Any]) -> str:
    """Return the result as a Markdown table; factors in brackets refer to the first candidate.

    Args:
        result: The record of `measure`.
    """
    machine, bandwidth = result["machine"], result["bandwidth_bytes_per_s"]
    steal = machine["steal_percent"]
    head = (
        f"{machine['cpu']}, {result['settings']['threads']} threads, "
        f"reads {max(bandwidth) / 1e9:.1f} GB/s at best ({np.median(bandwidth) / 1e9:.1f} median); "
        f"load {machine['load_average_before']:.1f} to {machine['load_average_after']:.1f}, "
        f"steal {'unknown' if steal is None else f'{steal:.1f} %'}"
    )
    columns = ["", "TTFT ms", "vision ms", "prefill ms", "decode ms/token", "limit ms"]
    columns += ["router % of TTFT", "on against off %", "weights MB", "peak memory MB"]
    first = result["candidates"][0]
    rows = markdown_table(columns, [_cells(one, first) for one in result["candidates"]])
    return f"{head}\n\n{rows}"


def _cells(one: dict[str, Any], first: dict[str, Any]) -> list[str]:
    digits = {"ttft_ms": 0, "vision_ms": 0, "prefill_ms": 0, "decode_ms_per_token": 1}
    overhead = one["router_overhead"]
    value, low, high = (100 * overhead["overhead"][name] for name in ("value", "low", "high"))
    return [
        f"{one['name']} {one['precision']}",
        *(
            f"{one[key]:.{places}f} ({first[key] / one[key]:.2f}×)"
            for key, places in digits.items()
        ),
        f"{one['decode_limit_ms']:.1f}",
        f"{100 * overhead['component_share']:.2f}",
        f"{value:+.1f} ({low:+.1f} to {high:+.1f})",
        f"{one['weights_bytes'] / 1e6:.0f}",
        f"{one['peak_memory_bytes'] / 1e6:.0f}",
    ]


def _row(work: Path) -> Row:
    """Return the one question, about an image of seeded noise that is one tile."""
    path = work / "tile.png"
    tile().save(path)
    return Row(id="1", task="vqa", images=(path,), prompt=PROMPT)


def tile(seed: int = 0) -> Image.Image:
    """Return a picture of noise that is one tile.

    Args:
        seed: Of the noise.
    """
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    return Image.fromarray(pixels)


def write_rows(work: Path, count: int) -> Path:
    """Write the same question about pictures of noise as JSON lines, and return the file.

    Args:
        work: Folder that keeps pictures and lines.
        count: Rows.
    """
    folder = work / f"noise-{count}"
    folder.mkdir(exist_ok=True)
    lines = []
    for at in range(count):
        tile(seed=at).save(folder / f"{at}.png")
        lines.append(json_text({"image": f"{at}.png", "prompt": PROMPT}))
    path = folder / "data.jsonl"
    write_whole(path, "\n".join(lines) + "\n")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("peers.smolvlm_256m", __doc__)
    add_work(parser)
    known = available_precisions(get_target("cpu"))
    parser.add_argument("--precisions", nargs="+", choices=known, default=PRECISIONS)
    add_count(parser, "--rounds", 5, "answers per candidate")
    add_count(parser, "--tokens", 32, "decoded tokens per answer")
    add_count(parser, "--threads", None, "threads per operation; all cores by default")
    return run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
