"""From logits to the next token: greedy, or drawn with temperature, top-k and top-p."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moir_edge.errors import DataError

__all__ = ["GenerationSettings", "Sampler", "filtered_logits"]


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How an answer is generated.

    Attributes:
        max_new_tokens: Tokens at most, at least 1; the context length may end an answer earlier.
        temperature: 0 takes the most likely token; larger values flatten the distribution.
        top_k: Draw from this many most likely tokens; 0 takes all.
        top_p: Draw from the smallest set of tokens whose probabilities reach this sum, in (0, 1].
        seed: Makes drawing repeatable; None draws a fresh one.
        stop: An answer ends before the first of these strings.
        router: Let the router enrich the prompt (no effect in a bundle without one).

    Raises:
        DataError: A value is out of range.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    router: bool = True

    def __post_init__(self) -> None:
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        finite = 0 <= self.temperature < float("inf")
        _require(finite, "temperature", self.temperature, "0 (greedy) or larger")
        _require(self.top_k >= 0, "top_k", self.top_k, "at least 1, or 0 for no limit")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(self.seed is None or self.seed >= 0, "seed", self.seed, "0 or larger")
        _require(all(self.stop), "stop", "''", "not empty")


class Sampler:
    """Chooses one token per row and step.

    Every row has its own random stream, so an answer does not depend on the rows beside it.

    Args:
        settings: Temperature, top-k, top-p and seed.
        rows: Rows of the batch.
    """

    def __init__(self, settings: GenerationSettings, rows: int) -> None:
        self._settings = settings
        seed = settings.seed if settings.seed is not None else np.random.SeedSequence().entropy
        self._streams = [np.random.default_rng([_as_int(seed), row]) for row in range(rows)]

    def __call__(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """Return (batch,) token ids for logits (batch, vocab)."""
        if self._settings.temperature == 0:
            return np.asarray(np.argmax(logits, axis=-1), dtype=np.int64)
        kept = filtered_logits(logits, self._settings)
        chosen = [
            _draw(row, stream.random()) for row, stream in zip(kept, self._streams, strict=True)
        ]
        return np.array(chosen, dtype=np.int64)


def filtered_logits(
    logits: npt.NDArray[np.float32], settings: GenerationSettings
) -> npt.NDArray[np.float32]:
    """Apply temperature, then top-k, then top-p; what is ruled out becomes minus infinity.

    Args:
        logits: (batch, vocab).
        settings: A temperature above 0.

    Returns:
        (batch, vocab) float32.

    Source: the order and the treatment of ties follow `transformers.generation.logits_process`.
    """
    scores = (logits / np.float32(settings.temperature)).astype(np.float32)
    if 0 < settings.top_k < scores.shape[-1]:
        lowest = np.partition(scores, -settings.top_k, axis=-1)[:, -settings.top_k, None]
        scores = np.where(scores < lowest, -np.inf, scores)
    if settings.top_p < 1:
        order = np.argsort(scores, axis=-1, kind="stable")
        mass = np.cumsum(_softmax(np.take_along_axis(scores, order, axis=-1)), axis=-1)
        out = mass <= 1 - settings.top_p
        out[:, -1] = False
        removed = np.zeros_like(out)
        np.put_along_axis(removed, order, out, axis=-1)
        scores = np.where(removed, -np.inf, scores)
    return scores.astype(np.float32)


def _draw(scores: npt.NDArray[np.float32], uniform: float) -> int:
    """Invert the cumulative distribution at `uniform` in [0, 1)."""
    kept = np.flatnonzero(np.isfinite(scores))
    mass = np.cumsum(_softmax(scores[kept].astype(np.float64)))
    index = int(np.searchsorted(mass, uniform * mass[-1], side="right"))
    return int(kept[min(index, len(kept) - 1)])


def _softmax(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    exponent = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result: npt.NDArray[np.floating] = exponent / exponent.sum(axis=-1, keepdims=True)
    return result


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise DataError(f"{name} is {value}; it must be {expected}")


def _as_int(seed: object) -> int:
    return seed if isinstance(seed, int) else 0
