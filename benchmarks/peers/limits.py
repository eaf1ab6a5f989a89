"""The physical limit of decoding: every weight is read once per token, and memory delivers only so many bytes per second."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from moir_edge.bundle import Manifest

__all__ = ["decode_bytes", "limit_ms", "read_bandwidth"]

# Far beyond the caches, yet read in milliseconds, so that some passes fall between what else the machine does.
_ARRAY_BYTES = 1 << 28


def read_bandwidth(
    threads: int, *, repeats: int = 120, array_bytes: int = _ARRAY_BYTES
) -> list[float]:
    """Read a large array with all threads at once, as a decoder reads its weights.

    Args:
        threads: Readers; each takes its own part.
        repeats: Passes over the array.
        array_bytes: Size of the array.

    Returns:
        Bytes per second of each pass.
    """
    array = np.ones(array_bytes // 4, dtype=np.float32)
    parts = np.array_split(array, threads)
    samples = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats + 1):
            start = time.perf_counter()
            list(pool.map(np.maximum.reduce, parts))
            samples.append(array.nbytes / (time.perf_counter() - start))
    return samples[1:]  # the first pass warms up


def decode_bytes(manifest: Manifest, context: int) -> int:
    """Return the bytes that one decoder step has to read: its weights as stored, and the keys and values so far.

    Args:
        manifest: Of the bundle.
        context: Tokens in the cache, float32.
    """
    facts = manifest.model
    table = manifest.components["embedding"].tensor_bytes  # the head is the same table, stored once
    cache = 2 * facts.num_layers * facts.num_kv_heads * facts.head_dim * context * 4
    return manifest.components["decoder"].tensor_bytes + table + cache


def limit_ms(bytes_per_token: int, bandwidth: float) -> float:
    """Return the least time of one token.

    Args:
        bytes_per_token: What a step reads.
        bandwidth: Bytes per second.
    """
    return 1000 * bytes_per_token / bandwidth
