"""Measure the recovery of quantized graphs on held-out rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Literal

import onnx_ir as ir

from moir_edge.calibration.mixed.prompts import PromptBatch, prompt_batches
from moir_edge.data.answers import Answer
from moir_edge.data.rows import Row
from moir_edge.graphs.sessions import TappedSessions
from moir_edge.graphs.writing import written_graphs
from moir_edge.metrics import mean_interval
from moir_edge.metrics.agreement import leading_share
from moir_edge.metrics.records import Interval
from moir_edge.metrics.scores import overall_recovery, row_scores
from moir_edge.precisions import FP32
from moir_edge.runtime.generation import GenerationRun
from moir_edge.runtime.generation_config import GenerationRules
from moir_edge.runtime.processor import Processor
from moir_edge.runtime.settings import GenerationSettings
from moir_edge.runtime.timing import Stopwatch

__all__ = ["HeldOut", "Measure"]

Measure = Literal["task score", "token agreement"]
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
        """Number of rows."""
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
        with written_graphs(graphs) as folder:
            sessions = TappedSessions(folder, precisions, self._facts)
            batches = prompt_batches(self._rows, self._processor, _BATCH)
            return [answer for batch in batches for answer in self._batch(sessions, batch)]

    def _batch(self, sessions: TappedSessions, batch: PromptBatch) -> list[Answer]:
        """Answer greedily, each row up to its end token."""
        run = GenerationRun(
            sessions=sessions,
            family=sessions.family,
            tokenizer=self._processor.tokenizer,
            inputs=batch.inputs,
            settings=GenerationSettings(),
            rules=GenerationRules(max_new_tokens=self._max_new_tokens),
            watch=Stopwatch(),
        )
        deque(run, maxlen=0)
        ends = self._facts.eos_token_ids
        done = run.result
        return [
            Answer(text=text.strip(), token_ids=tuple(one for one in ids if one not in ends))
            for text, ids in zip(done.texts, done.token_ids, strict=True)
        ]
