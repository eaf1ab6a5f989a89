"""The text decoder of SmolVLM-256M in llama.cpp, through `llama-cpp-python`, which is compiled where it is installed."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moir_edge.errors import EnvironmentProblem

__all__ = ["llama_cpp_run", "require_llama_cpp"]

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


def llama_cpp_run(
    path: Path, threads: int
) -> Callable[[npt.NDArray[np.int64], int], tuple[float, list[float]]]:
    """Load a GGUF file; return a call that times a prompt and then tokens, each in milliseconds.

    The next token is the most likely one. Keys and values are kept in float16, llama.cpp's default. Idle threads wait as
    the OpenMP library has it.

    Args:
        path: Of `gguf_file.gguf_model`.
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
