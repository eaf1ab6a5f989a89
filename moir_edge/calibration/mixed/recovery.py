"""How much of the float model's score a set of quantized graphs keeps on rows that calibrated nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from moir_edge.calibration.mixed.prompts import PromptBatch, prompt_batches
from moir_edge.data.rows import Row
from moir_edge.graphs.sessions import TappedSessions, greedy_tokens
from moir_edge.graphs.writing import write_graphs
from moir_edge.metrics import mean_interval
from moir_edge.metrics.agreement import leading_share
from moir_edge.metrics.records import Answer, Interval
from moir_edge.metrics.scores import overall_recovery, row_scores
from moir_edge.precisions import FP32
from moir_edge.runtime.processor import Processor

__all__ = ["HeldOut", "Measure"]

Measure = Literal["task score", "token agreement"]
_STAGE = "recovery on the held-out rows"
_SEED = 0
_BATCH = 16


class HeldOut:
    """Held-out rows, what the float model answers to them, and the recovery of other graphs.

    Where rows have accepted answers the recovery is the mean over tasks of score / float score, as `compare` has it;
    where none has, or the float model scores 0, it is the mean share of the float model's answer that comes before
    the first other token.

    Args:
        rows: The rows.
        processor: Prepares them, a batch at a time, whenever graphs are run.
        max_new_tokens: Longest answer.
        graphs: Float graphs of all components.

    Attributes:
        measure: Which of the two: ``task score`` or ``token agreement``.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        processor: Processor,
        *,
        max_new_tokens: int,
        graphs: Mapping[str, ir.Model],
    ) -> None:
        self._rows = tuple(rows)
        self._processor = processor
        self._facts = processor.facts
        self._max_new_tokens = max_new_tokens
        self._answers = self._run(graphs, dict.fromkeys(graphs, FP32))
        self._scores = row_scores(self._rows, self._answers)
        own = overall_recovery(self._rows, self._scores, self._scores, seed=_SEED)
        self.measure: Measure = "token agreement" if own is None else "task score"

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(self._rows)

    def recovery(self, graphs: Mapping[str, ir.Model], precisions: Mapping[str, str]) -> Interval:
        """Return the recovery of quantized graphs, a share, with its 95 % interval.

        Args:
            graphs: All components.
            precisions: Component name to the precision by which its session is set.
        """
        answers = self._run(graphs, precisions)
        if self.measure == "task score":
            scores = row_scores(self._rows, answers)
            found = overall_recovery(self._rows, scores, self._scores, seed=_SEED)
            if found is not None:
                return found
        pairs = zip(answers, self._answers, strict=True)
        shares = [leading_share(own.token_ids, ref.token_ids) for own, ref in pairs]
        return mean_interval(shares, seed=_SEED)

    def _run(self, graphs: Mapping[str, ir.Model], precisions: Mapping[str, str]) -> list[Answer]:
        """Return the answers to all rows."""
        with tempfile.TemporaryDirectory(prefix="moir-edge-mix-") as folder:
            write_graphs(graphs, Path(folder))
            sessions = TappedSessions(Path(folder), precisions, self._facts)
            batches = prompt_batches(self._rows, self._processor, _BATCH)
            return [answer for batch in batches for answer in self._batch(sessions, batch)]

    def _batch(self, sessions: TappedSessions, batch: PromptBatch) -> list[Answer]:
        """Answer greedily, each row up to its end token."""
        room = self._facts.context_length - batch.width
        ends = np.array(self._facts.eos_token_ids)
        embeds = sessions.prompt(batch.inputs).embeds
        logits, state = sessions.prefill(embeds, batch.inputs.attention_mask)
        tokens: list[Any] = [greedy_tokens(logits, _STAGE)]
        ended = np.isin(tokens[-1], ends)
        while len(tokens) < min(self._max_new_tokens, room) and not ended.all():
            tokens.append(greedy_tokens(sessions.decode(tokens[-1], state), _STAGE))
            ended |= np.isin(tokens[-1], ends)
        return [self._answer(row) for row in np.stack(tokens, axis=1).tolist()]

    def _answer(self, tokens: Sequence[int]) -> Answer:
        ends = self._facts.eos_token_ids
        stop = next((at for at, token in enumerate(tokens) if token in ends), len(tokens))
        ids = tuple(tokens[:stop])
        return Answer(text=self._processor.tokenizer.decode(ids).strip(), token_ids=ids)
