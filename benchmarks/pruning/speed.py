"""Times and memory of a long prompt over the share of image tokens that is dropped.

Features of the pictures are drawn at random, since no time depends on them: the vision tower costs the same whatever is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import moir_edge
from benchmarks.common import take_turns
from benchmarks.peers.checkpoint import IMAGE_TOKENS, PROMPT
from benchmarks.peers.smolvlm_256m import tile
from benchmarks.pruning.candidates import CANDIDATES, DENSITY, SHARES, answer
from moir_edge.metrics.bootstrap import paired_ratio
from moir_edge.runtime import EdgeModel
from moir_edge.runtime.interface import ImageFeatures
from moir_edge.runtime.processor import ModelInputs
from moir_edge.runtime.pruning import Pruning
from moir_edge.runtime.timing import peak_memory_bytes, reset_peak_memory

__all__ = ["PICTURES", "measure_speed"]

PICTURES = 17
"""Pictures of one tile each: the 1,088 image tokens of a picture in 4 × 4 tiles and its overview."""

_CACHE = 1 << 28
_CHOICE_SHARE = 0.5  # at which the other ways to choose are timed


def measure_speed(
    bundle: Path, *, rounds: int, threads: int, others: bool = True
) -> dict[str, Any]:
    """Time the first token with every share in turns, and take the process's peak memory of each.

    Args:
        bundle: Of SmolVLM-256M's geometry.
        rounds: Turns that count.
        threads: Of one operator.
        others: Time the other ways to choose too, at half of the tokens.
    """
    model = moir_edge.load(bundle, threads=threads, provider="cpu", image_cache_bytes=_CACHE)
    inputs = _prompt(model)
    calls: dict[str, Callable[[], dict[str, float]]] = {
        name: partial(_first_token, model, inputs, pruning)
        for name, pruning in _prunings(others=others).items()
    }
    _first_token(model, inputs, next(CANDIDATES[DENSITY].prunings(SHARES[-1])))  # warm up
    taken = take_turns(calls, rounds=rounds, warm_up=0)
    base = taken[_name(DENSITY, 0.0)]
    times = {
        name: {
            **{part: [one[part] for one in samples] for part in samples[0]},
            "prefill_ratio": _ratio(samples, base, "prefill_ms"),
            "ttft_ratio": _ratio(samples, base, "ttft_ms"),
            "cpu_ratio": _ratio(samples, base, "cpu_ms"),
        }
        for name, samples in taken.items()
    }
    return {
        "prompt_tokens": inputs.prompt_lengths[0],
        "image_tokens": PICTURES * IMAGE_TOKENS,
        "rounds": rounds,
        "threads": threads,
        "precision": model.manifest.precision,
        "times": times,
    }


def _ratio(own: list[dict[str, float]], base: list[dict[str, float]], part: str) -> Any:
    found = paired_ratio([one[part] for one in own], [one[part] for one in base], seed=0)
    return None if found is None else found.model_dump(mode="json")


def _prunings(*, others: bool) -> dict[str, Pruning | None]:
    found: dict[str, Pruning | None] = {_name(DENSITY, 0.0): None}
    for share in SHARES:
        found[_name(DENSITY, share)] = next(CANDIDATES[DENSITY].prunings(share))
    for name in ("similarity", "norm", "random") if others else ():
        found[_name(name, _CHOICE_SHARE)] = next(CANDIDATES[name].prunings(_CHOICE_SHARE))
    return found


def _name(selector: str, share: float) -> str:
    return f"{selector} {share:g}"


def _prompt(model: EdgeModel) -> ModelInputs:
    """Return a prompt of all pictures, and enter features for them."""
    inputs = model.encode([PROMPT], [[tile(seed) for seed in range(PICTURES)]])
    if inputs.pixel_values is None:
        raise ValueError("the prompt has no pictures")
    shape = (PICTURES, IMAGE_TOKENS, model.manifest.model.hidden_size)
    features = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    key = model.image_cache.key(inputs.pixel_values, inputs.images)
    model.image_cache.put(key, ImageFeatures(features=features))
    return inputs


def _first_token(
    model: EdgeModel, inputs: ModelInputs, pruning: Pruning | None
) -> dict[str, float]:
    """Return the times of one first token in milliseconds; `cpu_ms` is what all cores spent on it.

    `peak_bytes` is the process's peak memory meanwhile, the weights with it.
    """
    reset_peak_memory()
    started = time.process_time()
    timings = answer(model, inputs, pruning, most_tokens=1).timings
    return {
        "cpu_ms": 1000 * (time.process_time() - started),
        "prefill_ms": timings.prefill_ms,
        "pruning_ms": timings.pruning_ms,
        "router_ms": timings.router_ms,
        "ttft_ms": timings.ttft_ms,
        "peak_bytes": float(peak_memory_bytes()),
    }
