"""Run the float model on a few rows, so that a trial runs only from its layer on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.calibration.mixed.divergence import cross_entropy, kl_divergence
from moir_edge.calibration.mixed.prompts import PromptBatch
from moir_edge.graphs.sessions import TappedSessions, greedy_tokens
from moir_edge.metrics.routed import RoutedPrompts
from moir_edge.runtime.interface import DecoderInputs, Embeds, ImageFeatures

__all__ = ["Probe", "TrialOutputs", "probe", "replay"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One batch through the float model, its answers forced token by token.

    Attributes:
        batch: The prompts.
        features: The image features, or None without images.
        embeds: (batch, sequence, hidden) that enter the decoder.
        decoder: What the decoder takes besides.
        routed: What the router did, or None.
        tokens: (batch, steps) int64, the answers; padded at the end.
        counted: (batch, steps) bool, False at padding.
        logits: (batch, steps, vocab), from which `tokens` are predicted.
    """

    batch: PromptBatch
    features: ImageFeatures | None
    embeds: Embeds
    decoder: DecoderInputs
    routed: RoutedPrompts | None
    tokens: npt.NDArray[np.int64]
    counted: npt.NDArray[np.bool_]
    logits: Array

    @property
    def loss(self) -> Floats:
        """Cross entropy of each counted token, (tokens,), in nats."""
        return cross_entropy(self.logits, self.tokens)[self.counted]


@dataclass(frozen=True, kw_only=True)
class TrialOutputs:
    """The same batch with something changed.

    Attributes:
        kl: (tokens,) divergence from the float model at each counted token, in nats.
        loss: (tokens,) cross entropy of each counted token, in nats.
        routed: What the router did, or None where that is what it did in the probe.
    """

    kl: Floats
    loss: Floats
    routed: RoutedPrompts | None


def probe(
    sessions: TappedSessions, batch: PromptBatch, answers: Sequence[Sequence[int]], steps: int
) -> Probe:
    """Run the float model on a batch.

    Args:
        sessions: Those of the float graphs.
        batch: The prompts.
        answers: Tokens of each row's answer; where there are none the model's own greedy ones are taken.
        steps: Tokens of an answer that are looked at, at most.
    """
    run = sessions.prompt(batch.inputs)
    forced = _Answers(answers, steps, frozenset(sessions.facts.eos_token_ids))
    last, state = sessions.prefill(run.embeds, run.decoder)
    logits = []
    while (tokens := forced.next(greedy_tokens(last, "sensitivity, the float model"))) is not None:
        logits.append(last)
        last = sessions.decode(tokens, state)
    return Probe(
        batch=batch,
        features=run.features,
        embeds=run.embeds,
        decoder=run.decoder,
        routed=run.routed,
        tokens=np.stack(forced.tokens, axis=1),
        counted=np.stack(forced.counted, axis=1),
        logits=np.stack(logits, axis=1),
    )


def replay(sessions: TappedSessions, known: Probe, changed: Collection[str]) -> TrialOutputs:
    """Run a batch again with some components changed, from the first of them on.

    Args:
        sessions: Those of the float graphs, with what changes them as further inputs or in their place.
        known: The batch.
        changed: Names of the changed components.
    """
    embeds, decoder, routed = known.embeds, known.decoder, None
    if set(changed) != {"decoder"}:
        features = None if "vision" in changed else known.features
        run = sessions.prompt(known.batch.inputs, features=features)
        embeds, decoder, routed = run.embeds, run.decoder, run.routed
    last, state = sessions.prefill(embeds, decoder)
    steps = [last]
    for at in range(known.tokens.shape[1] - 1):
        steps.append(sessions.decode(known.tokens[:, at], state))
    logits = np.stack(steps, axis=1)
    return TrialOutputs(
        kl=kl_divergence(known.logits, logits)[known.counted],
        loss=cross_entropy(logits, known.tokens)[known.counted],
        routed=routed,
    )


class _Answers:
    """Gives the token of each row that comes next, its answer's or, without one, the model's own."""

    def __init__(self, answers: Sequence[Sequence[int]], steps: int, ends: frozenset[int]) -> None:
        self.tokens: list[npt.NDArray[np.int64]] = []
        self.counted: list[npt.NDArray[np.bool_]] = []
        self._answers = answers
        self._steps = steps
        self._ends = ends
        self._finished = [False] * len(answers)

    def next(self, greedy: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
        """Return the next tokens, (batch,), or None once no row has one that counts."""
        at = len(self.tokens)
        chosen, counted = [], []
        for row, answer in enumerate(self._answers):
            chosen.append(int(answer[at] if at < len(answer) else greedy[row]))
            counted.append(at < len(answer) if answer else not self._finished[row])
            self._finished[row] |= chosen[-1] in self._ends
        if at == self._steps or not any(counted):
            return None
        self.tokens.append(np.array(chosen, np.int64))
        self.counted.append(np.array(counted))
        return self.tokens[-1]
