"""Measure the text decoder of SmolVLM-256M in moir-edge and in ONNX Runtime GenAI, in turns, in one process.

Needs `pip install onnxruntime-genai`. Weights and bundles are those of `smolvlm_256m.py`, which makes them where they are missing. GenAI's own builder
makes its models; its int4 has the head in 4 bits too, where moir-edge keeps it in 8.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import Result, add_count, markdown_table, new_parser, run, take_turns
from benchmarks.peers.checkpoint import PROMPT_TOKENS, VOCABULARY_SIZE
from benchmarks.peers.smolvlm_256m import PRECISIONS, add_work, prepare
from moir_edge.bundle import open_bundle
from moir_edge.children import child_environment, module_command
from moir_edge.environment import require
from moir_edge.evaluation.machine import CpuTimes, describe_machine, load_average
from moir_edge.finite import json_text
from moir_edge.progress import Progress, single_step
from moir_edge.runtime.interface import DecoderInputs
from moir_edge.runtime.sessions import GraphSessions
from moir_edge.threads import default_threads

GENAI_PRECISIONS = ("fp32", "int4")
SPINNING = "session.intra_op.allow_spinning"

Prompt = npt.NDArray[np.int64]
Timed = tuple[float, list[float]]
"""Milliseconds of prefill and first token, then of each further token."""


def measure(options: argparse.Namespace, progress: Progress) -> Result:
    """Time every candidate once per round.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    require("torch", "transformers", "onnxruntime_genai")
    work: Path = options.work
    checkpoint, bundles = prepare(work, progress=progress)
    threads = default_threads()
    load_before = load_average()
    prompt = np.random.default_rng(0).integers(262, VOCABULARY_SIZE, PROMPT_TOKENS)
    runs: dict[str, Callable[[Prompt, int], Timed]] = {}
    for precision, bundle in zip(PRECISIONS, bundles, strict=True):
        runs[f"moir-edge {precision}"] = _bundle_run(bundle, threads)
    for precision in GENAI_PRECISIONS:
        with single_step(progress, f"GenAI {precision}"):
            folder = _genai_model(checkpoint, work, precision)
        runs[f"GenAI {precision}"] = _genai_run(folder, threads, spinning=True)
        runs[f"GenAI {precision}, no spinning"] = _genai_run(folder, threads, spinning=False)
    calls = {name: partial(one, prompt, options.tokens) for name, one in runs.items()}
    cpu = CpuTimes()
    with single_step(progress, "rounds"):
        samples = take_turns(calls, rounds=options.rounds, warm_up=1)
    machine = describe_machine(load_before, cpu.steal_percent())
    figures = {name: _figures(timed) for name, timed in samples.items()}
    record = {
        "machine": machine.model_dump(mode="json"),
        "settings": {"threads": threads, "rounds": options.rounds, "tokens": options.tokens},
        "candidates": figures,
    }
    rows = [
        (name, f"{one['prefill_ms']:.1f}", f"{one['decode_ms_per_token']:.1f}")
        for name, one in figures.items()
    ]
    return Result(text=markdown_table(("", "prefill ms", "decode ms/token"), rows), record=record)


def _figures(timed: Sequence[Timed]) -> dict[str, Any]:
    return {
        "prefill_ms": float(np.median([first for first, _ in timed])),
        "decode_ms_per_token": float(np.median([ms for _, rest in timed for ms in rest])),
        "samples": [{"prefill_ms": first, "token_ms": rest} for first, rest in timed],
    }


def _bundle_run(bundle: Path, threads: int) -> Callable[[Prompt, int], Timed]:
    sessions = GraphSessions.of(open_bundle(bundle, verify=False), threads=threads, provider="cpu")

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


def _genai_run(folder: Path, threads: int, *, spinning: bool) -> Callable[[Prompt, int], Timed]:
    import onnxruntime_genai as genai

    config = genai.Config(str(folder))
    session = {"intra_op_num_threads": threads, SPINNING: str(int(spinning))}
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


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    value = work()
    return 1000 * (time.perf_counter() - start), value


def _genai_model(checkpoint: Path, work: Path, precision: str) -> Path:
    """Return GenAI's model of the text decoder; made by GenAI's builder where it is missing."""
    folder = work / f"genai-{precision}"
    if (folder / "genai_config.json").is_file():
        return folder
    source = work / "text-decoder"
    if not (source / "tokenizer.json").is_file():
        _save_text_decoder(checkpoint, source)
    command = module_command("onnxruntime_genai.models.builder")
    command += ["-i", str(source), "-o", str(folder), "-p", precision, "-e", "cpu"]
    command += ["-c", str(work / "genai-cache")]
    if precision == "int4":
        command += ["--extra_options", "int4_accuracy_level=4", "int4_block_size=32"]
    subprocess.run(command, env=child_environment(), check=True, stdout=subprocess.DEVNULL)
    return folder


def _save_text_decoder(checkpoint: Path, folder: Path) -> None:
    """Write the language model alone, as a Llama checkpoint with the same weights."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    from moir_edge.export import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    whole: Any = loaded.model
    model: Any = LlamaForCausalLM(whole.config.text_config)
    model.model.load_state_dict(whole.model.text_model.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False).save_pretrained(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("peers.genai_decoder", __doc__)
    add_work(parser)
    add_count(parser, "--rounds", 9, "prompts per candidate")
    add_count(parser, "--tokens", 32, "decoded tokens per round")
    return run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
