"""The text decoder of SmolVLM-256M in llama.cpp: the same weights in a GGUF file, run through `llama-cpp-python`.

Needs `pip install llama-cpp-python gguf`; the first is compiled where it is installed, for the processor that is there.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.errors import EnvironmentProblem

__all__ = ["gguf_model", "llama_cpp_run", "require_llama_cpp"]

_CONTEXT = 4096 + 64
_PIECE = 512  # tokens that are computed at once; llama.cpp's own default


def require_llama_cpp() -> None:
    """Check that llama.cpp can be imported; its package has another name than its module.

    Raises:
        EnvironmentProblem: It is not installed.
    """
    if importlib.util.find_spec("llama_cpp") is None:
        raise EnvironmentProblem(
            "this needs the package 'llama-cpp-python', which is not installed; install it with `pip install llama-cpp-python`"
        )


def gguf_model(source: Path, work: Path, precision: str) -> Path:
    """Return a Llama checkpoint as a GGUF file; made where it is missing.

    Args:
        source: Folder of the checkpoint, in one `model.safetensors`.
        work: Folder that keeps the file.
        precision: ``fp32``, or ``int4``: blocks of 32 with one float16 scale (`Q4_0`), the token table too.
    """
    path = work / f"llama-cpp-{precision}.gguf"
    if not path.is_file():
        part = path.with_suffix(".part")
        _write(source, part, precision)
        part.replace(path)
    return path


def llama_cpp_run(
    path: Path, threads: int
) -> Callable[[npt.NDArray[np.int64], int], tuple[float, list[float]]]:
    """Load a GGUF file; return a call that times a prompt and then tokens, each in milliseconds.

    The next token is the most likely one. Keys and values are kept in float16, llama.cpp's default. Idle threads wait as
    the OpenMP library has it.

    Args:
        path: Of `gguf_model`.
        threads: That compute.
    """
    import llama_cpp

    model = llama_cpp.Llama(
        str(path),
        n_ctx=_CONTEXT,
        n_batch=_PIECE,
        n_threads=threads,
        n_threads_batch=threads,
        verbose=False,
    )
    words = model.n_vocab()

    def step(tokens: list[int]) -> tuple[float, int]:
        start = time.perf_counter()
        model.eval(tokens)
        logits = llama_cpp.llama_get_logits_ith(model.ctx, -1)
        chosen = int(np.ctypeslib.as_array(logits, (words,)).argmax())
        return 1000 * (time.perf_counter() - start), chosen

    def run(prompt: npt.NDArray[np.int64], tokens: int) -> tuple[float, list[float]]:
        model.reset()
        prefill_ms, chosen = step(prompt.tolist())
        token_ms = []
        for _ in range(tokens):
            ms, chosen = step([chosen])
            token_ms.append(ms)
        return prefill_ms, token_ms

    return run


def _write(source: Path, path: Path, precision: str) -> None:
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    kind = gguf.GGMLQuantizationType.Q4_0 if precision == "int4" else gguf.GGMLQuantizationType.F32
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(shared)
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_tokenizer_model("none")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, value in load_file(source / "model.safetensors").items():
        weights = value.astype(np.float32)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weights = _interleaved(weights, heads if "q_proj" in name else shared)
        stored = kind if weights.ndim > 1 else gguf.GGMLQuantizationType.F32
        target = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(target, gguf.quants.quantize(weights, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleaved(weights: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Return rows in llama.cpp's order: its rotation turns neighbours, where Llama's turns the halves of a head."""
    halves = weights.reshape(heads, 2, -1, weights.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weights.shape)
