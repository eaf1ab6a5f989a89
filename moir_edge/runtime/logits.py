"""Changes to the scores of the next token, as `transformers` makes them, in numpy.

Each processor takes the ids of one row so far (prompt without padding, image tokens included, then the answer) and its scores, (vocab,)
float32, and returns new scores. A row is treated as if it were alone: `transformers` counts padding in a batch, this module does not.

Source: `transformers.generation.logits_process` and the order of `GenerationMixin._get_logits_processor`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from moir_edge.runtime.generation_config import GenerationRules

__all__ = ["LogitsProcessor", "Scores", "TokenIds", "processors_for"]

Scores: TypeAlias = npt.NDArray[np.float32]
TokenIds: TypeAlias = Sequence[int]
LogitsProcessor: TypeAlias = Callable[[TokenIds, Scores], Scores]

_RULED_OUT = np.float32(-np.inf)


def processors_for(
    rules: GenerationRules, prompt: TokenIds, eos: Collection[int], max_new_tokens: int
) -> list[LogitsProcessor]:
    """Return the processors of one row that rules ask for, in transformers' order.

    Args:
        rules: What the generation config says.
        prompt: The row's prompt ids.
        eos: Ids that end an answer.
        max_new_tokens: The row's limit.
    """
    length = len(prompt)
    ends = sorted(eos)
    steps: list[LogitsProcessor] = []
    if rules.sequence_bias:
        steps.append(SequenceBias(rules.sequence_bias))
    if rules.encoder_repetition_penalty != 1:
        steps.append(PromptBonus(rules.encoder_repetition_penalty, prompt))
    if rules.repetition_penalty != 1:
        steps.append(RepetitionPenalty(rules.repetition_penalty))
    if rules.no_repeat_ngram_size:
        steps.append(NoRepeatNGram(rules.no_repeat_ngram_size))
    if rules.encoder_no_repeat_ngram_size:
        steps.append(NoRepeatNGram(rules.encoder_no_repeat_ngram_size, of=tuple(prompt)))
    if rules.bad_words_ids:
        steps.append(_bad_words(rules.bad_words_ids, ends))
    if shortest := _shortest(rules, length):
        steps.append(MinLength(shortest, ends))
    if rules.forced_bos_token_id is not None:
        steps.append(Forced(1, (rules.forced_bos_token_id,)))
    if rules.forced_eos_token_id is not None:
        steps.append(Forced(length + max_new_tokens - 1, rules.forced_eos_token_id))
    if rules.remove_invalid_values:
        steps.append(finite_scores)
    if rules.exponential_decay_length_penalty is not None:
        start, factor = rules.exponential_decay_length_penalty
        steps.append(ExponentialDecay(start + length, factor, ends))
    if rules.suppress_tokens:
        steps.append(Suppress(rules.suppress_tokens))
    if rules.begin_suppress_tokens:
        later = length <= 1 and rules.forced_bos_token_id is not None
        steps.append(Suppress(rules.begin_suppress_tokens, only_at=length + later))
    return steps


def _shortest(rules: GenerationRules, prompt_length: int) -> int:
    """Return the least length of prompt and answer; `min_new_tokens` goes before `min_length`."""
    if rules.min_new_tokens is not None:
        return prompt_length + rules.min_new_tokens if rules.min_new_tokens else 0
    return rules.min_length or 0


def _bad_words(words: Sequence[tuple[int, ...]], eos: Sequence[int]) -> SequenceBias:
    """Return the bias that rules out the last token of each sequence; a lone end token stays possible."""
    kept = [ids for ids in words if ids not in [(token,) for token in eos]]
    return SequenceBias([(ids, float("-inf")) for ids in kept])


@dataclass(frozen=True)
class SequenceBias:
    """Adds to the score of the last token of a sequence wherever the tokens before it are the row's last ones."""

    biases: Sequence[tuple[tuple[int, ...], float]]

    def __call__(self, ids: TokenIds, scores: Scores) -> Scores:
        """Return the biased scores."""
        bias = np.zeros_like(scores)
        for (*before, last), value in self.biases:
            if tuple(ids[len(ids) - len(before) :]) == tuple(before):
                bias[last] += np.float32(value)
        return scores + bias


@dataclass(frozen=True)
class RepetitionPenalty:
    """Makes every token that the row holds already less likely, those of the prompt too."""

    penalty: float

    def __call__(self, ids: TokenIds, scores: Scores) -> Scores:
        """Return the scores with the penalty."""
        return _scaled(scores, ids, self.penalty)


class PromptBonus:
    """Makes every token of the prompt more likely (`encoder_repetition_penalty`).

    Args:
        penalty: Above 1 favours the prompt's tokens.
        prompt: The prompt's ids.
    """

    def __init__(self, penalty: float, prompt: TokenIds) -> None:
        self._penalty = 1 / penalty
        self._prompt = tuple(prompt)  # the row's list of ids grows while it answers

    def __call__(self, ids: TokenIds, scores: Scores) -> Scores:
        """Return the scores with the bonus."""
        del ids
        return _scaled(scores, self._prompt, self._penalty)


def _scaled(scores: Scores, ids: TokenIds, penalty: float) -> Scores:
    """Divide positive scores of these tokens by a penalty and multiply negative ones; ids without a score are left out."""
    at = np.unique(np.asarray(ids, dtype=np.int64))
    at = at[at < len(scores)]
    result = scores.copy()
    chosen, by = scores[at], np.float32(penalty)
    result[at] = np.where(chosen < 0, chosen * by, chosen / by)
    return result


@dataclass(frozen=True)
class NoRepeatNGram:
    """Rules out the token that would complete an n-gram that stands in `of` already; None looks in the row itself."""

    size: int
    of: tuple[int, ...] | None = None

    def __call__(self, ids: TokenIds, scores: Scores) -> Scores:
        """Return the scores without those tokens."""
        searched = np.asarray(ids if self.of is None else self.of, dtype=np.int64)
        if len(ids) < self.size or len(searched) < self.size:
            return scores
        windows = np.lib.stride_tricks.sliding_window_view(searched, self.size)
        last = np.asarray(ids[len(ids) + 1 - self.size :], dtype=np.int64)
        return _without(scores, windows[(windows[:, :-1] == last).all(axis=1), -1])


@dataclass(frozen=True)
class MinLength:
    """Rules out the end tokens while prompt and answer are shorter than `length` together."""

    length: int
    eos: Sequence[int]

    def __call__(self, ids: TokenIds, scores: Scores) -> Scores:
        """Return the scores, without end tokens where it is too early."""
        return _without(scores, self.eos) if len(ids) < self.length else scores


@dataclass(frozen=True)
class Forced:
    """Leaves only these tokens where prompt and answer have `at` tokens together."""

    at: int
    tokens: Sequence[int]

    def __call__(self, ids: TokenIds, scores: Scores) -> Scores:
        """Return 0 for the forced tokens and minus infinity for the others, or the scores as they are."""
        if len(ids) != self.at:
            return scores
        forced = np.full_like(scores, _RULED_OUT)
        forced[list(self.tokens)] = 0
        return forced


def finite_scores(ids: TokenIds, scores: Scores) -> Scores:
    """Replace what earlier processors made infinite by the largest finite numbers (`remove_invalid_values`)."""
    del ids
    limits = np.finfo(np.float32)
    return np.nan_to_num(scores, nan=0.0, posinf=float(limits.max), neginf=float(limits.min))


@dataclass(frozen=True)
class ExponentialDecay:
    """Raises the score of the end tokens, more with every token beyond `start`."""

    start: int
    factor: float
    eos: Sequence[int]

    def __call__(self, ids: TokenIds, scores: Scores) -> Scores:
        """Return the scores with likelier end tokens."""
        beyond = len(ids) - self.start
        if beyond <= 0:
            return scores
        result = scores.copy()
        at = [token for token in self.eos if token < len(scores)]
        with np.errstate(over="ignore"):  # a long answer's factor leaves float32
            growth = np.float32(np.power(np.float64(self.factor), beyond) - 1)
            raised = np.abs(scores[at]) * growth
            result[at] += np.where(np.isfinite(scores[at]), raised, np.float32(0))
        return np.minimum(result, np.finfo(np.float32).max)


@dataclass(frozen=True)
class Suppress:
    """Rules out tokens: always, or only where prompt and answer have `only_at` tokens together."""

    tokens: Sequence[int]
    only_at: int | None = None

    def __call__(self, ids: TokenIds, scores: Scores) -> Scores:
        """Return the scores without these tokens."""
        return _without(scores, self.tokens) if self.only_at in (None, len(ids)) else scores


def _without(scores: Scores, tokens: Sequence[int] | npt.NDArray[np.int64]) -> Scores:
    at = np.asarray(tokens, dtype=np.int64)
    result = scores.copy()
    result[at[at < len(scores)]] = _RULED_OUT
    return result
