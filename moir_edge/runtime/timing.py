"""Where the time of one generation went, as raw samples, and the process's peak memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Stopwatch", "Timings", "peak_memory_bytes", "reset_peak_memory"]


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Wall-clock times of one batch in milliseconds.

    Attributes:
        preprocess_ms: Reading and resizing images, rendering and tokenizing the prompt.
        vision_ms: The vision graph, 0 without images.
        embedding_ms: The embedding graph and the placement of the image features.
        router_ms: The router graph and the search for its positions, 0 when switched off.
        pruning_ms: The choice of image tokens to drop, 0 where none are.
        prefill_ms: The decoder over the prompt, up to its logits.
        ttft_ms: From the call to the first token: all of the above, and the choice of the token.
        decode_ms: One sample per further token (one sample is a step of the whole batch).
    """

    preprocess_ms: float
    vision_ms: float
    embedding_ms: float
    router_ms: float
    pruning_ms: float = 0.0
    prefill_ms: float
    ttft_ms: float
    decode_ms: tuple[float, ...]

    @property
    def tpot_ms(self) -> float | None:
        """Mean time per output token after the first; None for a single token."""
        return sum(self.decode_ms) / len(self.decode_ms) if self.decode_ms else None

    @property
    def tokens_per_second(self) -> float | None:
        """Decode speed of one row; None for a single token."""
        return 1000 / self.tpot_ms if self.tpot_ms else None

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and the two derived figures, fit for JSON."""
        derived = {"tpot_ms": self.tpot_ms, "tokens_per_second": self.tokens_per_second}
        return {**asdict(self), **derived}


@dataclass
class Stopwatch:
    """Collects the parts of a `Timings` while the work goes on."""

    started: float = field(default_factory=time.perf_counter)
    parts_ms: dict[str, float] = field(default_factory=dict)
    decode_ms: list[float] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block under a name of `Timings` without its unit, such as ``"vision"``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = (time.perf_counter() - start) * 1000
            self.parts_ms[name] = self.parts_ms.get(name, 0.0) + spent

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time one decode step."""
        start = time.perf_counter()
        yield
        self.decode_ms.append((time.perf_counter() - start) * 1000)

    def first_token(self) -> None:
        """Note that the first token is known."""
        self.parts_ms["ttft"] = (time.perf_counter() - self.started) * 1000

    def result(self) -> Timings:
        """Return what was collected."""
        names = ("preprocess", "vision", "embedding", "router", "pruning", "prefill", "ttft")
        parts = {f"{name}_ms": self.parts_ms.get(name, 0.0) for name in names}
        return Timings(**parts, decode_ms=tuple(self.decode_ms))


_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def reset_peak_memory() -> bool:
    """Start the peak-memory figure over; False where the system keeps one per process only."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def peak_memory_bytes() -> int:
    """Return the most resident memory of this process since its start or the last reset."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
