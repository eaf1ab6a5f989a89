"""What the float model does on a few rows, kept so that a trial runs only what comes after the layer that it changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.calibration.mixed.divergence import cross_entropy, kl_divergence
from moir_edge.calibration.mixed.prompts import PromptBatch
from moir_edge.graphs.chain import GraphChain

__all__ = ["Probe", "TrialOutputs", "probe", "replay"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One batch through the float model, its answers forced token by token.

    Attributes:
        batch: The prompts.
        text: (batch, sequence, hidden) embeddings of the prompt's tokens.
        features: (images, tokens, hidden), or None without images.
        embeds: (batch, sequence, hidden) that enter the decoder.
        routing: The router's outputs by name, or None.
        tokens: (batch, steps) int64, the answers; padded at the end.
        counted: (batch, steps) bool, False at padding.
        token_embeds: (batch, steps, hidden) of `tokens`.
        logits: (batch, steps, vocab), from which `tokens` are predicted.
    """

    batch: PromptBatch
    text: Array
    features: Array | None
    embeds: Array
    routing: Mapping[str, Array] | None
    tokens: npt.NDArray[np.int64]
    counted: npt.NDArray[np.bool_]
    token_embeds: Array
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
        routing: The router's outputs, or None where they are those of the probe.
    """

    kl: Floats
    loss: Floats
    routing: Mapping[str, Array] | None


def probe(
    chain: GraphChain,
    batch: PromptBatch,
    answers: Sequence[Sequence[int]],
    steps: int,
    ends: Collection[int],
) -> Probe:
    """Run the float model on a batch.

    Args:
        chain: Sessions of the float graphs.
        batch: The prompts.
        answers: Tokens of each row's answer; where there are none the model's own greedy ones are taken.
        steps: Tokens of an answer that are looked at, at most.
        ends: Tokens that end an answer.
    """
    text = chain.embed(batch.inputs.input_ids)
    features = chain.image_features(batch.tiles) if len(batch.tiles) else None
    embeds, routing = chain.prompt_embeds(
        text, features, batch.inputs.input_ids, batch.inputs.attention_mask
    )
    forced = _Answers(answers, steps, frozenset(ends))
    step, logits, token_embeds = chain.start(embeds, batch.inputs.attention_mask), [], []
    while (tokens := forced.next(step.greedy("sensitivity, the float model"))) is not None:
        logits.append(step.logits)
        token_embeds.append(chain.embed(tokens[:, None]))
        step = chain.advance(step, token_embeds[-1])
    return Probe(
        batch=batch,
        text=text,
        features=features,
        embeds=embeds,
        routing=routing,
        tokens=np.stack(forced.tokens, axis=1),
        counted=np.stack(forced.counted, axis=1),
        token_embeds=np.concatenate(token_embeds, axis=1),
        logits=np.stack(logits, axis=1),
    )


def replay(chain: GraphChain, known: Probe, changed: Collection[str]) -> TrialOutputs:
    """Run a batch again with some components changed, from the first of them on.

    Args:
        chain: Sessions of the float graphs, with what changes them in `GraphChain.further_inputs`.
        known: The batch.
        changed: Names of the changed components.
    """
    batch, embeds, token_embeds, routing = known.batch, known.embeds, known.token_embeds, None
    if set(changed) != {"decoder"}:
        text = chain.embed(batch.inputs.input_ids) if "embedding" in changed else known.text
        features = known.features
        if features is not None and "vision" in changed:
            features = chain.image_features(batch.tiles)
        embeds, routing = chain.prompt_embeds(
            text, features, batch.inputs.input_ids, batch.inputs.attention_mask
        )
    if "embedding" in changed:
        token_embeds = chain.embed(known.tokens)
    step = chain.start(embeds, batch.inputs.attention_mask)
    steps = [step.logits]
    for at in range(token_embeds.shape[1] - 1):
        step = chain.advance(step, token_embeds[:, at : at + 1])
        steps.append(step.logits)
    logits = np.stack(steps, axis=1)
    return TrialOutputs(
        kl=kl_divergence(known.logits, logits)[known.counted],
        loss=cross_entropy(logits, known.tokens)[known.counted],
        routing=routing,
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
