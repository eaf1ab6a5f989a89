"""Measure the time to the first token with an image: bundles against the bare forward of transformers, in turns, in one process.

The geometry is that of SmolVLM-256M with one 512-pixel image; `smolvlm_256m.py` makes checkpoint and bundles where they are missing.
torch's time is the forward alone, of inputs that are made before. A bundle's time holds all of it: decoding and scaling the image,
tokens, vision, router and prompt. What the precisions cost in accuracy, the demo says: docs/quantization-measurements.md.
The router is switched on and off in pairs, with one tile and with 17: the 1,088 image tokens of a picture in 4 × 4 tiles and its
overview. That is on the first of the providers.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import moir_edge
from benchmarks.common import (
    Result,
    add_count,
    markdown_table,
    new_parser,
    replace_between,
    run,
    take_turns,
)
from benchmarks.peers.checkpoint import IMAGE_TOKENS, PROMPT
from benchmarks.peers.smolvlm_256m import add_work, prepare, tile
from benchmarks.pruning.speed import PICTURES
from moir_edge.environment import require
from moir_edge.evaluation.machine import CpuTimes, describe_machine, load_average
from moir_edge.metrics.bootstrap import paired_ratio
from moir_edge.progress import Progress, single_step
from moir_edge.runtime import EdgeModel
from moir_edge.runtime.image_cache import DEFAULT_IMAGE_CACHE_BYTES, ImageCache
from moir_edge.threads import default_threads

BUNDLES = ("fp32", "int4", "int4-vision-int8")
MARKS = ("<!-- first token: begin -->", "<!-- first token: end -->")
REFERENCE = "transformers fp32"
TILES = (1, PICTURES)
"""Pictures of one tile each in a prompt, with which the router is on and off."""
Call = Callable[[], float]
"""Runs once and returns milliseconds."""
Pair = tuple[float, float, float]
"""Milliseconds to the first token with the router on, with it off, and of the router alone."""


def measure(options: argparse.Namespace, progress: Progress) -> Result:
    """Time every candidate once per round, and the router on against off in pairs.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    require("torch", "transformers")
    checkpoint, folders = prepare(options.work, BUNDLES, progress=progress)
    threads = options.threads or default_threads()
    load_before, cpu = load_average(), CpuTimes()
    image = tile()
    calls: dict[str, Call] = {}
    for dtype in ("float32", "bfloat16"):
        with single_step(progress, f"loading transformers {dtype}"):
            name = REFERENCE if dtype == "float32" else "transformers bf16"
            calls[name] = _forward(checkpoint, image, dtype, threads)
    models = {
        _name(folder, provider): moir_edge.load(folder, threads=threads, provider=provider)
        for folder in folders
        for provider in options.providers
    }
    calls |= {name: partial(_first_token, model, image) for name, model in models.items()}
    with single_step(progress, "rounds"):
        samples = take_turns(calls, rounds=options.rounds, warm_up=1)
    on_first = [_name(folder, options.providers[0]) for folder in folders]
    routed = {name: models[name] for name in on_first}
    pairs = {
        str(tiles): _router_pairs(
            routed, [tile(seed) for seed in range(tiles)], options.pairs, progress
        )
        for tiles in TILES
    }
    again = {name: _again(model, options.rounds) for name, model in models.items()}
    machine = describe_machine(load_before, cpu.steal_percent())
    record = {
        "machine": machine.model_dump(mode="json"),
        "settings": {"threads": threads, "rounds": options.rounds, "pairs": options.pairs},
        "ttft_ms": samples,
        "router_on_off_ms": pairs,
        "second_question_ms": again,
    }
    text = table(record)
    if options.write is not None:
        replace_between(options.write, *MARKS, text)
    return Result(text=text, record=record)


def _name(folder: Path, provider: str) -> str:
    return f"moir-edge {folder.name}{'' if provider == 'cpu' else f', {provider}'}"


def _forward(checkpoint: Any, image: Image.Image, dtype: str, threads: int) -> Call:
    """Return the bare forward of the checkpoint's model, of inputs that are ready, to the next token."""
    import torch

    from moir_edge.export import load_checkpoint

    torch.set_num_threads(threads)
    loaded = load_checkpoint(checkpoint)
    parts = [{"type": "image"}, {"type": "text", "text": PROMPT}]
    text = loaded.processor.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True
    )
    inputs = loaded.processor(images=[[image]], text=[text], return_tensors="pt")
    kind = getattr(torch, dtype)
    model: Any = loaded.model.to(kind)
    inputs["pixel_values"] = inputs["pixel_values"].to(kind)

    def run_once() -> float:
        start = time.perf_counter()
        with torch.no_grad():
            model(**inputs, logits_to_keep=1).logits[0, -1].argmax().item()
        return 1000 * (time.perf_counter() - start)

    return run_once


def _first_token(model: EdgeModel, image: Image.Image) -> float:
    return model.generate(PROMPT, image, max_new_tokens=1).timings.ttft_ms


def _router_pairs(
    models: Mapping[str, EdgeModel],
    images: Sequence[Image.Image],
    pairs: int,
    progress: Progress,
) -> dict[str, list[Pair]]:
    """Return first tokens with the router on and off, one pair after the other."""
    found: dict[str, list[Pair]] = {}
    for name, model in models.items():
        found[name] = []
        with single_step(progress, f"router on and off, tiles: {len(images)}, {name}"):
            for turn in range(pairs):
                order = (True, False) if turn % 2 else (False, True)
                on_off = {
                    router: model.generate(PROMPT, images, max_new_tokens=1, router=router).timings
                    for router in order
                }
                on, off = on_off[True], on_off[False]
                found[name].append((on.ttft_ms, off.ttft_ms, on.router_ms))
    return found


def _again(model: EdgeModel, rounds: int) -> list[tuple[float, float]]:
    """Return first tokens of two questions about one picture, another picture each round."""
    found = []
    model.image_cache = ImageCache(DEFAULT_IMAGE_CACHE_BYTES)
    for turn in range(rounds):
        image = tile(seed=turn + 1)
        first, second = (
            model.generate(prompt, image, max_new_tokens=1).timings.ttft_ms
            for prompt in (PROMPT, PROMPT[::-1])
        )
        found.append((first, second))
    return found


def table(record: Mapping[str, Any]) -> str:
    """Return the record as Markdown; factors are against the float32 forward and the bfloat16 one.

    Args:
        record: Of `measure`.
    """
    machine = record["machine"]
    head = (
        f"{machine['cpu']}, {record['settings']['threads']} threads, {record['settings']['rounds']} rounds, "
        f"load {machine['load_average_before']:.1f} to {machine['load_average_after']:.1f}"
    )
    medians = {name: float(np.median(one)) for name, one in record["ttft_ms"].items()}
    rows = []
    for name, median in medians.items():
        pairs = [taken.get(name) for taken in record["router_on_off_ms"].values()]
        again = record["second_question_ms"].get(name)
        rows.append(
            (
                name,
                f"{median:.0f}",
                f"{median / medians[REFERENCE]:.2f}×",
                f"{median / medians['transformers bf16']:.2f}×",
                *("" if taken is None else _share(taken) for taken in pairs),
                "" if again is None else _ratio(again),
            )
        )
    columns = (
        "",
        "first token ms",
        "of fp32",
        "of bf16",
        *(
            f"router on against off, and its own share; {int(tiles) * IMAGE_TOKENS:,} image tokens"
            for tiles in record["router_on_off_ms"]
        ),
        "second question",
    )
    return f"{head}\n\n{markdown_table(columns, rows)}"


def _share(pairs: Sequence[Pair]) -> str:
    """Return the median of what the router adds, with its 95 % interval over the pairs, and the router's own share."""
    on, off, own = zip(*pairs, strict=True)
    found = paired_ratio(on, off, seed=0)
    if found is None:
        return "–"
    middle, low, high = (100 * (one - 1) for one in (found.value, found.low, found.high))
    share = 100 * float(np.median(own)) / float(np.median(on))
    return f"{middle:+.1f} % ({low:+.1f} to {high:+.1f}); {share:.2f} %"


def _ratio(pairs: Sequence[tuple[float, float]]) -> str:
    """Return how long the second question takes to its first token, as a share of the first one's."""
    return f"{np.median([second / first for first, second in pairs]):.2f}×"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("peers.first_token", __doc__)
    add_work(parser)
    add_count(parser, "--rounds", 9, "first tokens per candidate")
    add_count(parser, "--pairs", 9, "router on and off, for each number of tiles")
    parser.add_argument("--threads", type=int, metavar="N", help="default: as moir-edge chooses")
    parser.add_argument(
        "--providers", nargs="+", default=["cpu"], metavar="NAME", help="default: cpu"
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="page to write the table into")
    return run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
