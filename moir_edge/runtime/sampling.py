"""The choice of the next token: checks the logits, applies a row's processors, then takes the best token or draws one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moir_edge.errors import DataError
from moir_edge.runtime.generation_config import GenerationRules
from moir_edge.runtime.logits import LogitsProcessor, Scores, TokenIds
from moir_edge.runtime.settings import GenerationSettings
from moir_edge.runtime.warpers import log_softmax, softmax, warpers_for

__all__ = ["Sampler", "require_finite"]


class Sampler:
    """Chooses one token per row and step.

    Every row has its own random stream and its own processors, so an answer does not depend on the rows beside it.

    Args:
        settings: Temperature and seed.
        rules: Filters of a draw, and whether scores are normalized.
        processors: Per row, from `moir_edge.runtime.logits.processors_for`.
    """

    def __init__(
        self,
        settings: GenerationSettings,
        rules: GenerationRules,
        processors: Sequence[Sequence[LogitsProcessor]],
    ) -> None:
        self._draws = settings.temperature > 0
        self._warpers = warpers_for(rules, settings.temperature) if self._draws else []
        self._normalize = rules.renormalize_logits
        self._processors = processors
        seed = settings.seed if settings.seed is not None else np.random.SeedSequence().entropy
        self._streams = [
            np.random.default_rng([_as_int(seed), row]) for row in range(len(processors))
        ]

    def __call__(
        self, logits: npt.NDArray[np.float32], rows: Sequence[TokenIds | None], step: int
    ) -> npt.NDArray[np.int64]:
        """Choose the next token of each row.

        Args:
            logits: (batch, vocab).
            rows: Per row, the ids of prompt and answer so far; None for a row that has ended, whose token is of no account.
            step: Tokens generated before this one, for messages.

        Returns:
            (batch,) token ids.

        Raises:
            DataError: The logits of a row that goes on are not finite, or the settings rule out every token.
        """
        chosen = np.zeros(len(rows), dtype=np.int64)
        for at, (ids, scores) in enumerate(zip(rows, logits, strict=True)):
            if ids is not None:
                require_finite(scores, at, step)
                chosen[at] = self._choose(ids, np.asarray(scores, dtype=np.float32), at)
        return chosen

    def _choose(self, ids: TokenIds, scores: Scores, row: int) -> int:
        for processor in self._processors[row]:
            scores = processor(ids, scores)
        if not (scores > -np.inf).any():
            raise DataError(
                "the generation config excludes every token; "
                "remove one of suppress_tokens, bad_words_ids, sequence_bias or no_repeat_ngram_size"
            )
        for warper in self._warpers:
            scores = warper(scores)
        if self._normalize:
            scores = log_softmax(scores)
        return _draw(scores, self._streams[row].random()) if self._draws else int(scores.argmax())


def require_finite(
    scores: npt.NDArray[np.float32],
    row: int,
    step: int,
    remedy: str = "its weights are damaged or its precision too narrow, export it in fp32",
) -> None:
    """Refuse logits that hold NaN or infinity: their largest value means nothing.

    Args:
        scores: (vocab,) logits of one row.
        row: Its place in the batch, for the message.
        step: Tokens generated before this one.
        remedy: The cause and what to do.

    Raises:
        DataError: A logit is not finite.
    """
    finite = np.isfinite(scores)
    if not finite.all():
        at = int(np.argmin(finite))
        raise DataError(
            f"the decoder gave {scores[at]} for token {at} (row {row}, step {step}): "
            f"{int((~finite).sum())} of {len(scores)} logits are not finite; "
            f"{remedy}"
        )


def _draw(scores: Scores, uniform: float) -> int:
    """Invert the cumulative distribution at `uniform` in [0, 1)."""
    kept = np.flatnonzero(np.isfinite(scores))
    mass = np.cumsum(softmax(scores[kept].astype(np.float64)))
    index = int(np.searchsorted(mass, uniform * mass[-1], side="right"))
    return int(kept[min(index, len(kept) - 1)])


def _as_int(seed: object) -> int:
    return seed if isinstance(seed, int) else 0
