"""Show which operators take the time of a decoded token, in moir-edge and in ONNX Runtime GenAI, by ONNX Runtime's own profiler.

Needs `pip install onnxruntime-genai`. Models are those of `text_decoder.py`, which makes them where they are missing. Each tool
decodes the same number of tokens per round, in turns, in one process. The profiler costs some microseconds an operator, so
the sums here are above the times of `text_decoder.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    Result,
    add_count,
    markdown_table,
    new_parser,
    replace_between,
    run,
    take_turns,
)
from benchmarks.peers.smolvlm_256m import add_work, prepare
from benchmarks.peers.text_decoder import BOTH_FORMS, PEERS, genai_model
from moir_edge.bundle import Bundle, open_bundle
from moir_edge.environment import require
from moir_edge.evaluation.machine import CpuTimes, describe_machine, load_average
from moir_edge.finite import json_text
from moir_edge.progress import Progress, single_step
from moir_edge.runtime.component import Component
from moir_edge.runtime.decoders import WindowDecoder
from moir_edge.runtime.interface import DecoderInputs
from moir_edge.temporary import TemporaryFolder
from moir_edge.threads import default_threads, session_options, waiting_entries

MARKS = ("<!-- decode profile: begin -->", "<!-- decode profile: end -->")
RUN = "whole run"
_SHOWN = 0.01
"""The share of a run from which an operator has a row of its own."""

Times = dict[str, float]
"""Milliseconds a token by operator, and of the whole run."""


def measure(options: argparse.Namespace, progress: Progress) -> Result:
    """Profile each tool once per round.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    require("torch", "transformers", "onnxruntime_genai")
    checkpoint, folders = prepare(options.work, BOTH_FORMS, progress=progress)
    threads = options.threads or default_threads()
    load_before, cpu = load_average(), CpuTimes()
    calls: dict[str, Callable[[], Times]] = {}
    for folder in folders:
        bundle, peer = open_bundle(folder, verify=False), PEERS[folder.name]
        genai = genai_model(checkpoint, options.work, peer)
        calls[f"moir-edge {folder.name}"] = _bundle(bundle, threads, options)
        calls[f"GenAI {peer}"] = _genai(genai, threads, options)
    with single_step(progress, "decoding"):
        rounds = take_turns(calls, rounds=options.rounds, warm_up=1)
    machine = describe_machine(load_before, cpu.steal_percent()).model_dump(mode="json")
    record: dict[str, Any] = {
        "settings": {
            "threads": threads,
            "rounds": options.rounds,
            "tokens": options.tokens,
            "context": options.context,
        },
        "machine": machine,
        "samples": {name: list(samples) for name, samples in rounds.items()},
    }
    text = table(record)
    if options.write is not None:
        replace_between(options.write, *MARKS, text)
    return Result(text=text, record=record)


def table(record: Mapping[str, Any]) -> str:
    """Return the medians as a Markdown table.

    Args:
        record: Of `measure`.
    """
    machine, settings = record["machine"], record["settings"]
    head = (
        f"{machine['cpu']}, {settings['threads']} threads, {settings['rounds']} rounds of {settings['tokens']} "
        f"tokens after {settings['context']}, load {machine['load_average_before']:.1f} to "
        f"{machine['load_average_after']:.1f}. Milliseconds a token:"
    )
    medians = {name: _medians(samples) for name, samples in record["samples"].items()}
    shown = [
        operator
        for operator in _sorted_operators(medians)
        if any(one.get(operator, 0) >= _SHOWN * one[RUN] for one in medians.values())
    ]
    rows = [
        [f"`{operator}`", *(_cell(one.get(operator)) for one in medians.values())]
        for operator in shown
    ]
    rest = (
        sum(ms for name, ms in one.items() if name not in (RUN, *shown)) for one in medians.values()
    )
    rows.append(["other operators", *(f"{ms:.2f}" for ms in rest)])
    between = (
        one[RUN] - sum(ms for name, ms in one.items() if name != RUN) for one in medians.values()
    )
    rows.append(["between operators", *(f"{ms:.2f}" for ms in between)])
    rows.append([RUN, *(f"{one[RUN]:.2f}" for one in medians.values())])
    return f"{head}\n\n{markdown_table(['', *medians], rows)}"


def token_times(profile: Path, tokens: int) -> Times:
    """Return what the last runs of a profile took.

    Args:
        profile: JSON file of ONNX Runtime's profiler.
        tokens: How many runs at its end decode one token each.
    """
    events = json.loads(profile.read_text(encoding="utf-8"))
    runs = [one for one in events if one.get("name") == "model_run"][-tokens:]
    start = runs[0]["ts"]
    times = {RUN: sum(one["dur"] for one in runs) / 1000 / tokens}
    for event in events:
        timed = event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
        if timed and event["ts"] >= start:
            operator = event["args"]["op_name"]
            times[operator] = times.get(operator, 0.0) + event["dur"] / 1000 / tokens
    return times


def _medians(samples: Sequence[Times]) -> Times:
    names = dict.fromkeys(name for one in samples for name in one)
    return {name: float(np.median([one.get(name, 0.0) for one in samples])) for name in names}


def _sorted_operators(medians: Mapping[str, Times]) -> list[str]:
    names = {name for one in medians.values() for name in one if name != RUN}
    return sorted(names, key=lambda name: -max(one.get(name, 0.0) for one in medians.values()))


def _cell(ms: float | None) -> str:
    return "" if ms is None else f"{ms:.2f}"


def _bundle(bundle: Bundle, threads: int, options: argparse.Namespace) -> Callable[[], Times]:
    """Return what decodes with the bundle's decoder; embeddings are random, which no operator's time depends on."""
    import onnxruntime

    facts = bundle.manifest.model
    shape = (1, options.context + options.tokens, facts.hidden_size)
    embeds = np.random.default_rng(0).standard_normal(shape, np.float32)

    def decode() -> Times:
        with TemporaryFolder() as folder:
            session = session_options(threads, "sleep")
            session.enable_profiling = True
            session.profile_file_prefix = str(folder / "profile")
            graph = str(bundle.graph("decoder", fused=True))
            opened = onnxruntime.InferenceSession(graph, session, ["CPUExecutionProvider"])
            decoder = WindowDecoder(Component(opened, graph), facts)
            mask = np.ones((1, options.context), np.int64)
            _, state = decoder.prefill(embeds[:, : options.context], DecoderInputs.of_mask(mask))
            for place in range(options.context, shape[1]):
                decoder.decode(embeds[:, place : place + 1], state)
            return token_times(Path(opened.end_profiling()), options.tokens)

    return decode


def _genai(model_folder: Path, threads: int, options: argparse.Namespace) -> Callable[[], Times]:
    import onnxruntime_genai as genai

    prompt = np.arange(300, 300 + options.context, dtype=np.int32)

    def decode() -> Times:
        with TemporaryFolder() as folder:
            config = genai.Config(str(model_folder))
            session = {
                "intra_op_num_threads": threads,
                **waiting_entries("sleep"),
                "enable_profiling": str(folder / "profile"),
            }
            config.overlay(json_text({"model": {"decoder": {"session_options": session}}}))
            model = genai.Model(config)
            length = options.context + options.tokens + 1
            params = genai.GeneratorParams(model)
            params.set_search_options(min_length=length, max_length=length)
            generator = genai.Generator(model, params)
            generator.append_tokens(prompt)
            for _ in range(options.tokens + 1):  # the first comes with the prompt
                generator.generate_next_token()
            del generator, params, model  # its end writes the profile
            (profile,) = folder.glob("profile*")
            return token_times(profile, options.tokens)

    return decode


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("peers.decode_profile", __doc__)
    add_work(parser)
    add_count(parser, "--rounds", 5, "turns of each tool")
    add_count(parser, "--tokens", 32, "decoded tokens per round")
    add_count(parser, "--context", 92, "tokens of the prompt")
    parser.add_argument("--threads", type=int, metavar="N", help="default: as moir-edge chooses")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="page to write the table into")
    return run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
