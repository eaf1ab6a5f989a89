"""Sensitivity of every layer of a vision-language model: the float graphs run once, then each trial from its layer's component on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.calibration.mixed.layers import Layer, LayerTable
from moir_edge.calibration.mixed.overrides import TRIAL_SESSION, TrialGraphs
from moir_edge.calibration.mixed.probes import Probe, TrialOutputs, probe, replay
from moir_edge.calibration.mixed.prompts import PromptBatch
from moir_edge.calibration.mixed.records import LayerSensitivity, PrecisionCost, try_layers
from moir_edge.graphs.sessions import TappedSessions
from moir_edge.graphs.writing import written_graphs
from moir_edge.metrics.routed import RoutingFigures
from moir_edge.precisions import FP32
from moir_edge.progress import Progress

__all__ = ["ModelSensitivity", "measure_sensitivity"]

Batch = tuple[PromptBatch, Sequence[Sequence[int]]]


@dataclass(frozen=True, kw_only=True)
class ModelSensitivity:
    """Every layer's cost, and what it was measured on.

    Attributes:
        layers: In graph order.
        rows: Rows that were run.
        answered: Those of them whose own answer was forced; the others took the float model's.
        tokens: Positions over which divergence and loss are averaged.
        loss: The float model's cross entropy, nats per token.
    """

    layers: tuple[LayerSensitivity, ...]
    rows: int
    answered: int
    tokens: int
    loss: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "rows": self.rows,
            "rows_with_answers": self.answered,
            "tokens": self.tokens,
            "fp32_loss": self.loss,
            "layers": [layer.to_dict() for layer in self.layers],
        }


def measure_sensitivity(
    graphs: Mapping[str, ir.Model],
    facts: ModelFacts,
    table: LayerTable,
    batches: Sequence[Batch],
    *,
    answer_tokens: int,
    progress: Progress,
) -> ModelSensitivity:
    """Try every layer in every precision, all others in float32.

    The float graphs run once over all rows and what enters each component is kept: a layer of the decoder is tried by
    the decoder alone, one of the vision tower by vision, router and decoder. The cost is rows × layers × precisions
    prompts, and as many runs of one token for each further token of the answers. A precision whose method also edits what
    is around a layer takes a session per trial.

    Args:
        graphs: Float graphs of all components, those in `table` among them.
        facts: The model's facts.
        table: The layers.
        batches: Prompts with the tokens of each row's answer, empty where the float model's own is taken.
        answer_tokens: Tokens of an answer that are looked at, at most.
        progress: Called as ``progress("sensitivity", done, trials)``.
    """
    trials = TrialGraphs(table)
    with written_graphs({**graphs, **trials.models}) as folder:
        sessions = TappedSessions(
            folder, dict.fromkeys(graphs, FP32), facts, session_entries=TRIAL_SESSION
        )
        known = [_probe(sessions, batch, answer_tokens) for batch in batches]
        trier = _Trier(sessions, known, trials, table)
        layers = try_layers(table.layers, trier.cost, progress=progress)
    losses = np.concatenate([one.loss for one in known])
    answers = [answer for _, own in batches for answer in own]
    return ModelSensitivity(
        layers=layers,
        rows=len(answers),
        answered=sum(map(bool, answers)),
        tokens=len(losses),
        loss=float(losses.mean()),
    )


def _probe(sessions: TappedSessions, batch: Batch, answer_tokens: int) -> Probe:
    prompts, answers = batch
    room = sessions.facts.context_length - prompts.width
    return probe(sessions, prompts, answers, min(answer_tokens, room))


@dataclass(frozen=True)
class _Trier:
    """Runs the known batches with one layer in another precision."""

    sessions: TappedSessions
    known: Sequence[Probe]
    trials: TrialGraphs
    table: LayerTable

    def cost(self, layer: Layer, precision: str, size: int) -> PrecisionCost:
        """Return what one layer costs in one precision that takes so many bytes."""
        outputs = self._outputs(layer, precision)
        increase = np.concatenate(
            [got.loss - own.loss for got, own in zip(outputs, self.known, strict=True)]
        )
        routing = _routing(self.known, outputs)
        return PrecisionCost(
            precision=precision,
            bytes=size,
            kl=float(np.concatenate([one.kl for one in outputs]).mean()),
            loss_increase=float(increase.mean()),
            index_agreement=routing.get("index_agreement"),
            matched_token_cosine=routing.get("matched_token_cosine"),
        )

    def _outputs(self, layer: Layer, precision: str) -> list[TrialOutputs]:
        feeds = self.trials.feeds(layer, precision)
        if feeds is not None:
            self.sessions.feed_further(feeds)
            return [replay(self.sessions, one, feeds) for one in self.known]
        models = self.table.alone(layer, precision)
        with written_graphs(models) as folder:
            sessions = self.sessions.replaced(folder, dict.fromkeys(models, FP32))
            return [replay(sessions, one, models) for one in self.known]


def _routing(known: Sequence[Probe], outputs: Sequence[TrialOutputs]) -> Mapping[str, Any]:
    """Return figures on the router's choices, none where the change comes after it."""
    figures = RoutingFigures()
    for one, output in zip(known, outputs, strict=True):
        if one.routed is not None and output.routed is not None:
            figures.compare(one.routed, output.routed)
    return figures.summary() or {}
