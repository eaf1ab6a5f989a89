"""Measure the text decoder of SmolVLM-256M in moir-edge, ONNX Runtime GenAI, OpenVINO GenAI and llama.cpp, in turns, in one process.

Needs `pip install 'onnxruntime-genai>=0.18' openvino-genai llama-cpp-python gguf`. Weights and bundles are those of `smolvlm_256m.py`, which makes them
where they are missing. GenAI's own builder makes its models; its int4 has the head in 4 bits, so the bundle that it is held against
has too, and the GGUF file of the other two. Each candidate runs with threads that sleep and with threads that spin, and the bundles in both forms
of their decoder. The threads of llama.cpp and OpenVINO GenAI wait in the one way that each has.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import (
    Result,
    add_count,
    markdown_table,
    new_parser,
    replace_between,
    run,
    take_turns,
)
from benchmarks.peers.checkpoint import VOCABULARY_SIZE
from benchmarks.peers.gguf_file import gguf_model
from benchmarks.peers.limits import decode_bytes, limit_ms, read_bandwidth
from benchmarks.peers.llama_cpp_peer import llama_cpp_run, require_llama_cpp
from benchmarks.peers.openvino_genai_peer import openvino_genai_run
from benchmarks.peers.smolvlm_256m import add_work, prepare
from moir_edge.bundle import Bundle, open_bundle
from moir_edge.children import child_environment, module_command
from moir_edge.environment import require
from moir_edge.evaluation.machine import CpuTimes, describe_machine, load_average
from moir_edge.finite import json_text
from moir_edge.progress import Progress, single_step
from moir_edge.runtime.interface import DecoderInputs
from moir_edge.runtime.sessions import GraphSessions
from moir_edge.threads import THREAD_WAITS, ThreadWait, default_threads, waiting_entries

PEERS = {"fp32": "fp32", "int4-head-int4": "int4", "int4-head-int4-block-64": "int4-block-64"}
"""What the peers' models of the same bits are called."""
IN_GGUF = ("fp32", "int4")
"""Those that llama.cpp runs: its blocks are of 32."""
IN_OPENVINO_GENAI = ("int4",)
"""Those files that OpenVINO GenAI (2026.4) reads: float32 it refuses."""
BOTH_FORMS = ("fp32", "int4-head-int4")
"""Bundles whose decoder runs in the form of every runtime too."""
CONTEXTS = (92, 1000, 4000)
_PAUSE = 0.3  # seconds
MARKS = ("<!-- decoder: begin -->", "<!-- decoder: end -->")

Prompt = npt.NDArray[np.int64]
Timed = tuple[float, list[float]]
"""Milliseconds of prefill and first token, then of each further token."""
Runs = dict[str, Callable[[Prompt, int], Timed]]


def measure(options: argparse.Namespace, progress: Progress) -> Result:
    """Time every candidate once per round, at each context.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    require("torch", "transformers", "onnxruntime_genai", "openvino_genai", "gguf")
    require_llama_cpp()
    checkpoint, folders = prepare(options.work, options.bundles, progress=progress)
    bundles = [open_bundle(folder, verify=False) for folder in folders]
    threads = options.threads or default_threads()
    load_before, cpu = load_average(), CpuTimes()
    bandwidth = read_bandwidth(threads)
    record: dict[str, Any] = {
        "settings": {"threads": threads, "rounds": options.rounds, "tokens": options.tokens},
        "contexts": {},
    }
    for wait in options.waits:
        runs = _runs(bundles, checkpoint, options.work, threads, wait)
        for context in options.contexts:
            with single_step(progress, f"{context} tokens, threads {wait}"):
                timed = _timed_rounds(runs, context, options)
            place = record["contexts"].setdefault(str(context), {})
            place[wait] = {name: _figures(one) for name, one in timed.items()}
        del runs
    bandwidth += read_bandwidth(threads)
    machine = describe_machine(load_before, cpu.steal_percent())
    record["machine"] = machine.model_dump(mode="json")
    record["bandwidth_bytes_per_s"] = bandwidth
    record["limit_ms"] = {
        str(context): {
            bundle.path.name: limit_ms(decode_bytes(bundle.manifest, context), max(bandwidth))
            for bundle in bundles
        }
        for context in options.contexts
    }
    text = table(record)
    if options.write is not None:
        replace_between(options.write, *MARKS, text)
    return Result(text=text, record=record)


def _timed_rounds(
    runs: Runs, context: int, options: argparse.Namespace
) -> Mapping[str, Sequence[Timed]]:
    prompt = np.random.default_rng(0).integers(262, VOCABULARY_SIZE, context)
    # Long prompts take long: fewer rounds, and as many tokens in all.
    rounds = max(2, options.rounds * CONTEXTS[0] // context) if context > 1000 else options.rounds
    calls = {name: partial(_rested, one, prompt, options.tokens) for name, one in runs.items()}
    return take_turns(calls, rounds=rounds, warm_up=1)


def _runs(
    bundles: Sequence[Bundle], checkpoint: Path, work: Path, threads: int, wait: ThreadWait
) -> Runs:
    runs: Runs = {}
    for bundle in bundles:
        name = bundle.path.name
        peer = PEERS[name]
        runs[f"moir-edge {name}"] = _bundle_run(bundle, threads, wait)
        if name in BOTH_FORMS:
            runs[f"moir-edge {name}, decoder.onnx"] = _bundle_run(_plain(bundle), threads, wait)
        folder = genai_model(checkpoint, work, peer)
        runs[f"GenAI {peer}"] = _genai_run(folder, threads, wait)
        if peer in IN_GGUF:
            file = gguf_model(text_checkpoint(checkpoint, work), work, peer)
            runs[f"llama.cpp {peer}"] = llama_cpp_run(file, threads)
            if peer in IN_OPENVINO_GENAI:
                runs[f"OpenVINO GenAI {peer}"] = openvino_genai_run(file, threads)
    return runs


def _plain(bundle: Bundle) -> Bundle:
    """Return the bundle without the graphs that are for ONNX Runtime alone."""
    components = {
        name: entry.model_copy(update={"fused": None})
        for name, entry in bundle.manifest.components.items()
    }
    manifest = bundle.manifest.model_copy(update={"components": components})
    return Bundle(path=bundle.path, manifest=manifest)


def _figures(timed: Sequence[Timed]) -> dict[str, Any]:
    return {
        "prefill_ms": float(np.median([first for first, _ in timed])),
        "decode_ms_per_token": float(np.median([ms for _, rest in timed for ms in rest])),
        "samples": [{"prefill_ms": first, "token_ms": rest} for first, rest in timed],
    }


def table(record: Mapping[str, Any]) -> str:
    """Return the record as Markdown tables, one for each way in which threads wait; factors are against GenAI's same bits.

    Args:
        record: Of `measure`.
    """
    machine, settings = record["machine"], record["settings"]
    head = (
        f"{machine['cpu']}, {settings['threads']} threads, load {machine['load_average_before']:.1f} to "
        f"{machine['load_average_after']:.1f}, reads {max(record['bandwidth_bytes_per_s']) / 1e9:.1f} GB/s at best"
    )
    contexts = list(record["contexts"])
    columns = [
        "",
        *(f"prefill {one} ms" for one in contexts),
        *(f"decode at {one} ms" for one in contexts),
    ]
    parts = [head]
    for wait in record["contexts"][contexts[0]]:
        measured = {one: record["contexts"][one][wait] for one in contexts}
        rows = [_cells(name, measured) for name in measured[contexts[0]]]
        limits = [
            (
                f"limit, {name}",
                *("" for _ in contexts),
                *(f"{record['limit_ms'][one][name]:.1f}" for one in contexts),
            )
            for name in record["limit_ms"][contexts[0]]
        ]
        parts.append(f"Threads {wait}:\n\n{markdown_table(columns, [*rows, *limits])}")
    return "\n\n".join(parts)


def _cells(name: str, measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    held = _held_against(name)
    cells = [name]
    for key, digits in (("prefill_ms", 0), ("decode_ms_per_token", 1)):
        for one in measured.values():
            figure = one[name][key]
            factor = "" if held == name else f" ({figure / one[held][key]:.2f}×)"
            cells.append(f"{figure:.{digits}f}{factor}")
    return cells


def _held_against(name: str) -> str:
    """Return GenAI's candidate of the same bits."""
    precision = name.partition(",")[0].rpartition(" ")[2]
    return f"GenAI {PEERS.get(precision, precision)}"


def _bundle_run(bundle: Bundle, threads: int, wait: ThreadWait) -> Callable[[Prompt, int], Timed]:
    sessions = GraphSessions.of(bundle, threads=threads, provider="cpu", thread_wait=wait)

    def run(prompt: Prompt, tokens: int) -> Timed:
        state: Any = None

        def first() -> Any:
            nonlocal state
            embeds = sessions.embed(prompt[None])
            logits, state = sessions.prefill(
                embeds, DecoderInputs.of_mask(np.ones((1, len(prompt)), np.int64))
            )
            return logits

        prefill_ms, logits = _timed(first)
        token_ms = []
        for _ in range(tokens):
            chosen = logits.argmax(-1)
            ms, logits = _timed(partial(sessions.decode, chosen, state))
            token_ms.append(ms)
        return prefill_ms, token_ms

    return run


def _genai_run(folder: Path, threads: int, wait: ThreadWait) -> Callable[[Prompt, int], Timed]:
    import onnxruntime_genai as genai

    config = genai.Config(str(folder))
    session = {"intra_op_num_threads": threads, **waiting_entries(wait)}
    config.overlay(json_text({"model": {"decoder": {"session_options": session}}}))
    model = genai.Model(config)

    def run(prompt: Prompt, tokens: int) -> Timed:
        length = len(prompt) + tokens + 1
        params = genai.GeneratorParams(model)
        params.set_search_options(min_length=length, max_length=length)
        generator = genai.Generator(model, params)

        def first() -> None:
            generator.append_tokens(prompt.astype(np.int32))
            generator.generate_next_token()

        prefill_ms, _ = _timed(first)
        return prefill_ms, [_timed(generator.generate_next_token)[0] for _ in range(tokens)]

    return run


def _rested(one: Callable[[Prompt, int], Timed], prompt: Prompt, tokens: int) -> Timed:
    """Time a candidate once the threads of the one before have stopped spinning."""
    time.sleep(_PAUSE)
    return one(prompt, tokens)


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    value = work()
    return 1000 * (time.perf_counter() - start), value


def genai_model(checkpoint: Path, work: Path, precision: str) -> Path:
    """Return GenAI's model of the text decoder; made by GenAI's builder where it is missing."""
    folder = work / f"genai-{precision}"
    if (folder / "genai_config.json").is_file():
        return folder
    source = text_checkpoint(checkpoint, work)
    command = module_command("onnxruntime_genai.models.builder")
    kind, _, block = precision.partition("-block-")
    command += ["-i", str(source), "-o", str(folder), "-p", kind, "-e", "cpu"]
    command += ["-c", str(work / "genai-cache")]
    if kind == "int4":
        # Names of GenAI 0.18; it takes those of earlier versions without a word and without effect.
        command += ["--extra_options", "accuracy_level=4", f"block_size={block or 32}"]
    subprocess.run(command, env=child_environment(), check=True, stdout=subprocess.DEVNULL)
    return folder


def text_checkpoint(checkpoint: Path, work: Path) -> Path:
    """Return the language model alone, as a Llama checkpoint with the same weights; made where it is missing."""
    folder = work / "text-decoder"
    if (folder / "tokenizer.json").is_file():
        return folder
    from transformers import AutoTokenizer, LlamaForCausalLM

    from moir_edge.export import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    whole: Any = loaded.model
    model: Any = LlamaForCausalLM(whole.config.text_config)
    model.model.load_state_dict(whole.model.text_model.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False).save_pretrained(folder)
    return folder


def _contexts(text: str) -> tuple[int, ...]:
    return tuple(int(one) for one in text.split(","))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("peers.text_decoder", __doc__)
    add_work(parser)
    add_count(parser, "--rounds", 9, "prompts per candidate")
    add_count(parser, "--tokens", 32, "decoded tokens per round")
    parser.add_argument(
        "--contexts", type=_contexts, default=CONTEXTS, metavar="N,N", help="tokens of the prompt"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="default: as moir-edge chooses")
    parser.add_argument(
        "--waits",
        nargs="+",
        choices=THREAD_WAITS,
        default=THREAD_WAITS,
        help="how idle threads wait",
    )
    parser.add_argument(
        "--bundles",
        nargs="+",
        choices=tuple(PEERS),
        default=tuple(PEERS),
        help="only these, and what the other tools have of the same bits",
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="page to write the table into")
    return run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
