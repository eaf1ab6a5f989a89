"""Measure moir-edge against transformers on the geometry of SmolVLM-256M, in turns, in one run.

    python benchmarks/peers/smolvlm_256m.py -o result.json

Needs a checkout installed with `pip install -e '.[export]'`; this folder is not part of the package. Checkpoint and
bundles (2.2 GB) are made once, in the folder `--work`, which takes minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.checkpoint import IMAGE_SIZE, PROMPT, PROMPT_TOKENS, build_checkpoint
from benchmarks.peers.limits import decode_bytes, limit_ms, read_bandwidth
from moir_edge.bundle import open_bundle
from moir_edge.data.rows import Row
from moir_edge.errors import DataError, MoirEdgeError
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
from moir_edge.staging import staged_folder
from moir_edge.threads import default_threads

PRECISIONS = ("fp32", "int8-weight-only", "int4")
WARM_UP = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, measure, print the table and write the JSON; returns the exit code.

    Args:
        arguments: Of the command line.
    """
    options = _options(arguments)
    try:
        result = measure(options)
    except MoirEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    Path(options.output).write_text(json_text(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))
    return 0


def prepare(work: Path, precisions: Sequence[str] = PRECISIONS) -> tuple[Path, list[Path]]:
    """Make what is missing of the checkpoint and its bundles.

    Args:
        work: Folder that keeps them; what stands there is used as it is.
        precisions: Of the bundles.

    Returns:
        The checkpoint and the bundles, in the order of `precisions`.
    """
    checkpoint = work / "checkpoint"
    bundles = [work / precision for precision in precisions]
    if not (checkpoint / "processor_config.json").is_file():
        _say("checkpoint with random weights")
        with staged_folder(checkpoint, CHECKPOINT) as folder:
            build_checkpoint(folder)
    missing = [path for path in bundles if not path.exists()]
    if missing:
        from moir_edge.export import assemble, load_checkpoint, trace_components

        _say("tracing")
        traced = trace_components(load_checkpoint(checkpoint))
        for path in missing:
            _say(f"bundle {path.name}")
            assemble(traced, path, target="cpu", precision=path.name)
    return checkpoint, bundles


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run every phase.

    Args:
        options: Of the command line.

    Returns:
        The result as JSON data, raw samples included.
    """
    work = Path(options.work)
    work.mkdir(parents=True, exist_ok=True)
    checkpoint, bundles = prepare(work)
    rows = [_row(work)]
    threads = options.threads or default_threads()
    load_before = load_average()
    bandwidth = read_bandwidth(threads)
    plan = LatencyPlan(
        rows=(0,), repeats=options.rounds, warm_up=WARM_UP, max_new_tokens=options.tokens + 1
    )
    with ExitStack() as stack:
        candidates: list[Measured] = []
        for source in (checkpoint, *bundles):
            _say(f"loading {source.name}")
            spec = spec_of(source, threads=threads, max_new_tokens=options.tokens + 1)
            candidates.append(stack.enter_context(CandidateProcess(spec, rows)))
        cpu = CpuTimes()
        timed = measure_latency(candidates, plan, _progress)
        peaks = [one.peak_memory() for one in candidates]
        pairs = measure_overhead(candidates, plan, _progress)
        machine = describe_machine(load_before, cpu.steal_percent())
    bandwidth += read_bandwidth(threads)
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine.model_dump(mode="json"),
        "settings": {"threads": threads, "rounds": options.rounds, "tokens": options.tokens},
        "bandwidth_bytes_per_s": bandwidth,
        "candidates": [
            figures(one, timed[at], pairs[at], peaks[at], max(bandwidth))
            for at, one in enumerate(candidates)
        ],
    }


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
        result: What `measure` returned.
    """
    machine, bandwidth = result["machine"], result["bandwidth_bytes_per_s"]
    steal = machine["steal_percent"]
    lines = [
        f"{machine['cpu']}, {result['settings']['threads']} threads, "
        f"reads {max(bandwidth) / 1e9:.1f} GB/s at best ({np.median(bandwidth) / 1e9:.1f} median); "
        f"load {machine['load_average_before']:.1f} to {machine['load_average_after']:.1f}, "
        f"steal {'unknown' if steal is None else f'{steal:.1f} %'}",
        "",
        "| | TTFT ms | vision ms | prefill ms | decode ms/token | limit ms "
        "| router % of TTFT | on against off % | weights MB | peak memory MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    first = result["candidates"][0]
    for one in result["candidates"]:
        timed = [
            f"{one[key]:.{digits}f} ({first[key] / one[key]:.2f}×)"
            for key, digits in (
                ("ttft_ms", 0),
                ("vision_ms", 0),
                ("prefill_ms", 0),
                ("decode_ms_per_token", 1),
            )
        ]
        inside = 100 * one["router_overhead"]["component_share"]
        router = one["router_overhead"]["overhead"]
        cells = [
            f"{one['name']} {one['precision']}",
            *timed,
            f"{one['decode_limit_ms']:.1f}",
            f"{inside:.2f}",
            f"{100 * router['value']:+.1f} ({100 * router['low']:+.1f} to {100 * router['high']:+.1f})",
            f"{one['weights_bytes'] / 1e6:.0f}",
            f"{one['peak_memory_bytes'] / 1e6:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _row(work: Path) -> Row:
    """Return the one question, about an image of seeded noise that is one tile."""
    path = work / "tile.png"
    _noise(path, seed=0)
    return Row(id="1", task="vqa", images=(path,), prompt=PROMPT)


def _noise(path: Path, *, seed: int) -> None:
    """Write a picture of noise that is one tile."""
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(path)


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
        _noise(folder / f"{at}.png", seed=at)
        lines.append(json_text({"image": f"{at}.png", "prompt": PROMPT}))
    path = folder / "data.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--output", required=True, help="JSON file to write")
    parser.add_argument("--work", default="peers-work", help="folder of checkpoint and bundles")
    parser.add_argument("--rounds", type=int, default=5, help="answers per candidate")
    parser.add_argument("--tokens", type=int, default=32, help="decoded tokens per answer")
    parser.add_argument("--threads", type=int, help="threads per operation; all cores by default")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.tokens < 1:
        parser.error("--rounds and --tokens must be at least 1")
    return options


def _progress(stage: str, done: int, total: int) -> None:
    _say(f"{stage} {done}/{total}")


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
