"""Measure the providers of a CPU side by side: ONNX Runtime, OpenVINO exact, OpenVINO that rounds.

Speed is measured on the geometry of SmolVLM-256M, whose bundles `peers/smolvlm_256m.py` makes where they are missing. All
providers of a bundle are loaded into one process and take turns. What the rounding costs is measured on the demo: its bundles
on each provider against its fp32 bundle on ONNX Runtime.

`-o FILE` keeps every sample. `--read FILE --write PAGE` prints the tables of an earlier run into a page.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common import (
    AGREEMENT_HEAD,
    Result,
    add_count,
    agreement_cells,
    agreement_record,
    markdown_table,
    new_parser,
    replace_between,
    run,
    take_turns,
)
from benchmarks.peers.checkpoint import IMAGE_SIZE, PROMPT, VOCABULARY_SIZE
from benchmarks.peers.smolvlm_256m import add_work, prepare
from moir_edge.environment import require
from moir_edge.evaluation.machine import CpuTimes, describe_machine, load_average
from moir_edge.json_files import read_object
from moir_edge.limits import REPORT_BYTES
from moir_edge.precisions import FP32, INT4, INT8, INT8_WEIGHT_ONLY
from moir_edge.progress import Progress, single_step
from moir_edge.runtime.interface import DecoderInputs
from moir_edge.threads import default_threads

if TYPE_CHECKING:
    from moir_edge.runtime import EdgeModel

__all__ = ["BEGIN", "END", "main", "measure", "tables"]

BEGIN, END = "<!-- providers: begin -->", "<!-- providers: end -->"
PROVIDERS = ("cpu", "openvino", "openvino-fast")
CONTEXTS = (92, 1_000, 4_000)
"""Tokens of the prompts after which decoding is timed; the last prompt is run once, which takes long enough to tell."""

_FIRST_WORD = 262  # smaller ids are special tokens and bytes
_STEPS = 8  # decoder steps of one turn


def measure(options: argparse.Namespace, progress: Progress) -> Result:
    """Take the times and the agreement, or read those of an earlier run.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    record = _read(options.read) if options.read else _measured(options, progress)
    text = tables(record)
    if options.write is not None:
        replace_between(options.write, BEGIN, END, text)
    return Result(text=text, record=record)


def _read(path: Path) -> dict[str, Any]:
    return read_object(path, most_bytes=REPORT_BYTES)


def _measured(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    require("openvino", "torch", "transformers", extra="dev")
    _, bundles = prepare(options.work, options.precisions, progress=progress)
    threads = options.threads or default_threads()
    load_before, cpu = load_average(), CpuTimes()
    speed = {}
    for precision, bundle in zip(options.precisions, bundles, strict=True):
        with single_step(progress, f"times of {precision}"), _empty_cache():
            speed[precision] = _times(bundle, threads, options.rounds)
    machine = describe_machine(load_before, cpu.steal_percent())
    return {
        "machine": machine.model_dump(mode="json"),
        "settings": {"threads": threads, "rounds": options.rounds, "rows": options.rows},
        "speed": speed,
        "agreement": _agreement(options.rows, progress),
    }


@contextmanager
def _empty_cache() -> Iterator[None]:
    """Let what is compiled inside the block be kept in a folder of its own."""
    before = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            yield
        finally:
            del os.environ["XDG_CACHE_HOME"]
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before


def _times(bundle: Path, threads: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return the samples of every provider: seconds of two loads, and milliseconds of all else."""
    from moir_edge.runtime import load

    found: dict[str, dict[str, list[float]]] = {name: {} for name in PROVIDERS}
    models: dict[str, EdgeModel] = {}
    for name in PROVIDERS:
        chosen: Any = name
        again = partial(load, bundle, threads=threads, provider=chosen, verify=False)
        milliseconds = []
        for _ in range(2):
            spent, models[name] = _timed(again)
            milliseconds.append(spent)
        found[name]["load_ms"] = milliseconds
    image = _noise()
    firsts = {name: partial(_first_token, model, image) for name, model in models.items()}
    for name, samples in take_turns(firsts, rounds=rounds, warm_up=1).items():
        for key in samples[0]:
            found[name][key] = [sample[key] for sample in samples]
    for context in CONTEXTS:
        decoders = {name: _Decoder(model, context) for name, model in models.items()}
        turns = rounds if context < CONTEXTS[-1] else 1
        prefills = {name: one.prefill for name, one in decoders.items()}
        for name, taken in take_turns(prefills, rounds=turns, warm_up=turns > 1).items():
            found[name][f"prefill_{context}_ms"] = taken
        steps = {name: one.steps for name, one in decoders.items()}
        for name, many in take_turns(steps, rounds=rounds, warm_up=1).items():
            found[name][f"decode_{context}_ms"] = [ms for taken in many for ms in taken]
    return found


def _noise() -> Any:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    return Image.fromarray(pixels)


def _first_token(model: EdgeModel, image: Any) -> dict[str, float]:
    timings = model.generate(PROMPT, image, max_new_tokens=1).timings
    return {"ttft_ms": timings.ttft_ms, "vision_ms": timings.vision_ms}


class _Decoder:
    """A prompt of text on one provider, and the steps after it."""

    def __init__(self, model: EdgeModel, context: int) -> None:
        self._sessions = model.sessions
        random = np.random.default_rng(context)
        self._ids = random.integers(_FIRST_WORD, VOCABULARY_SIZE, (1, context))
        self._state: Any = None

    def prefill(self) -> float:
        """Run the prompt and return its milliseconds."""
        embeds = self._sessions.embed(self._ids)
        inputs = DecoderInputs.of_mask(np.ones_like(self._ids))
        self._state = None  # the memory of the one before is free again
        spent, (_, self._state) = _timed(partial(self._sessions.prefill, embeds, inputs))
        return spent

    def steps(self) -> list[float]:
        """Go on by some tokens and return the milliseconds of each."""
        tokens = [np.array([_FIRST_WORD + at]) for at in range(_STEPS)]
        return [_timed(partial(self._sessions.decode, one, self._state))[0] for one in tokens]


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    value = work()
    return 1000 * (time.perf_counter() - start), value


def _agreement(rows: int, progress: Progress) -> dict[str, dict[str, Any]]:
    """Compare the demo's bundles on every provider with its fp32 bundle on ONNX Runtime."""
    from moir_edge.demo import demo_rows, write_jsonl
    from moir_edge.evaluation import CompareSettings, compare

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bundles = _demo_bundles(folder, progress)
        data = write_jsonl(demo_rows("test", count=rows), folder / "data")
        settings = CompareSettings(
            latency_rows=1, latency_repeats=1, threads=1, providers=PROVIDERS
        )
        report = compare(bundles[0], bundles, data, settings=settings, progress=progress)
    _, *found = report.candidates
    return {one.name: agreement_record(one) for one in found}


def _demo_bundles(folder: Path, progress: Progress) -> list[Path]:
    from moir_edge.calibration import CalibrationSettings
    from moir_edge.demo import checkpoint_path, demo_rows, write_jsonl
    from moir_edge.export import assemble, load_checkpoint, trace_components

    rows = write_jsonl(demo_rows("val", count=64, seed=7), folder / "calibration")
    calibration = CalibrationSettings(data=rows, rows=64)
    traced = trace_components(load_checkpoint(checkpoint_path()), progress=progress)
    return [
        assemble(
            traced,
            folder / one,
            precision=one,
            calibration=calibration if one == INT8 else None,
            progress=progress,
        )
        for one in (FP32, INT8, INT8_WEIGHT_ONLY, INT4)
    ]


def tables(record: Mapping[str, Any]) -> str:
    """Return the tables of a run; factors in brackets are against ONNX Runtime, and above 1 is faster.

    Args:
        record: As `measure` keeps it.
    """
    machine, settings = record["machine"], record["settings"]
    steal = machine["steal_percent"]
    head = (
        f"{machine['cpu']}, {settings['threads']} threads, {settings['rounds']} rounds; "
        f"load {machine['load_average_before']:.1f} to {machine['load_average_after']:.1f}, "
        f"steal {'unknown' if steal is None else f'{steal:.1f} %'}"
    )
    agreement = markdown_table(
        ("", *AGREEMENT_HEAD),
        [(f"`{name}`", *agreement_cells(one)) for name, one in record["agreement"].items()],
    )
    rows = f"The demo's test split, {settings['rows']} rows, against `{FP32}` on `{PROVIDERS[0]}`:"
    return f"{head}\n\n{_speed_table(record['speed'])}\n\n{rows}\n\n{agreement}"


def _speed_table(speed: Mapping[str, Mapping[str, Mapping[str, list[float]]]]) -> str:
    columns = {"ttft_ms": "TTFT ms", "vision_ms": "vision ms"}
    columns |= {f"prefill_{one}_ms": f"prefill {one:,} ms" for one in CONTEXTS}
    columns |= {f"decode_{one}_ms": f"decode at {one:,} ms" for one in CONTEXTS}
    rows = []
    for precision, providers in speed.items():
        base = providers[PROVIDERS[0]]
        for name, samples in providers.items():
            first, again = samples["load_ms"]
            cells = [f"`{precision}` on `{name}`", f"{first / 1000:.1f} / {again / 1000:.1f}"]
            rows.append(cells + [_cell(samples[key], base[key]) for key in columns])
    return markdown_table(["", "load s, first / again", *columns.values()], rows)


def _cell(samples: Sequence[float], base: Sequence[float]) -> str:
    median = float(np.median(samples))
    return f"{median:.{0 if median >= 100 else 1}f} ({float(np.median(base)) / median:.2f}×)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("providers", __doc__)
    add_work(parser)
    choices = (FP32, INT8_WEIGHT_ONLY, INT4)
    parser.add_argument("--precisions", nargs="+", choices=choices, default=(FP32, INT4))
    add_count(parser, "--rounds", 3, "turns of each provider")
    add_count(parser, "--rows", 300, "rows of the demo's test split")
    add_count(parser, "--threads", None, "threads per operation; all cores by default")
    parser.add_argument("--read", type=Path, metavar="FILE", help="measure nothing: read this")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the tables into a page")
    return run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
