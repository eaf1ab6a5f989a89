"""The text decoder of SmolVLM-256M in OpenVINO GenAI, which reads the GGUF file of llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["openvino_genai_run"]


def openvino_genai_run(
    path: Path, threads: int
) -> Callable[[npt.NDArray[np.int64], int], tuple[float, list[float]]]:
    """Load a GGUF file; return a call that times a prompt and then tokens, each in milliseconds, by the library's own clock.

    The library's defaults hold, but for the prompts of earlier rounds, which it does not keep: it computes in bfloat16 where the
    processor does, and keeps keys and values in 8 bits.

    Args:
        path: Of `gguf_file.gguf_model`, ``int4``: the library (2026.4) reads no float32.
        threads: That compute.
    """
    import openvino
    import openvino_genai

    scheduling = openvino_genai.SchedulerConfig()
    # Without a configuration it is on, and the second round does not read its prompt again.
    scheduling.enable_prefix_caching = False
    options = {"INFERENCE_NUM_THREADS": threads, "scheduler_config": scheduling}
    pipeline = openvino_genai.LLMPipeline(str(path), "CPU", options)
    settings = openvino_genai.GenerationConfig()
    settings.ignore_eos = True

    def run(prompt: npt.NDArray[np.int64], tokens: int) -> tuple[float, list[float]]:
        settings.min_new_tokens = settings.max_new_tokens = tokens + 1
        times = pipeline.generate(openvino.Tensor(prompt[None]), settings).perf_metrics.raw_metrics
        prefill, *rest = (us / 1000 for us in (*times.m_times_to_first_token, *times.m_durations))
        return prefill, rest

    return run
