"""Run a traced model over calibration rows and gather statistics of its activations; resumable, in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.bundle.reader import file_sha256
from moir_edge.calibration.rows import CalibrationRow, CalibrationRows
from moir_edge.calibration.state import CollectionState
from moir_edge.calibration.taps import (
    GraphObservers,
    add_taps,
    find_activations,
    new_observers,
    update_observers,
)
from moir_edge.finite import json_text
from moir_edge.graphs.sessions import TappedSessions, greedy_tokens
from moir_edge.graphs.writing import written_graphs
from moir_edge.precisions import FP32
from moir_edge.progress import Progress, silent

__all__ = ["collect", "run_row"]

_SAVE_EVERY = 32  # rows
_MOST_KEPT_BYTES = 1 << 23
_VERSION = 3
_SUFFIX = ".statistics"


def collect(
    graphs: Mapping[str, ir.Model],
    facts: ModelFacts,
    rows: CalibrationRows,
    *,
    components: Mapping[str, bool],
    decode_steps: int,
    cache: Path | None = None,
    stage: str = "calibrate",
    progress: Progress = silent,
) -> dict[str, GraphObservers]:
    """Run every row through the whole chain, prompt and a few tokens, and watch the named components.

    Args:
        graphs: Float graphs of all components.
        facts: The model's facts.
        rows: The data; read to its end.
        components: Those to watch; True to gather Σ x xᵀ too.
        decode_steps: Greedy tokens after each prompt.
        cache: Folder for the state, saved every 32 rows and at the end, and taken up from there; None saves nothing.
        stage: Name of the work, for the progress.
        progress: Called as ``progress(stage, done, rows.limit)``.

    Returns:
        Statistics by component and activation.

    Raises:
        DataError: No row can be used, the saved state is of other rows, or an activation is not finite.
    """
    with written_graphs(_tapped(graphs, components)) as folder:
        settings = (decode_steps, rows.limit, *rows.balance.conditions)
        identity = _identity(folder, [settings, sorted(components.items())])
        state = _initial_state(graphs, components, cache, identity)
        watcher = _Watcher(state.observers)
        sessions = TappedSessions(
            folder, dict.fromkeys(graphs, FP32), facts, watch=watcher, tiles_per_run=1
        )
        progress(stage, 0, rows.limit)
        for row in rows:
            if state.wants(rows):
                watcher.where = row.where
                run_row(sessions, row, decode_steps)
                watcher.flush()
                state.advance(rows)
                if rows.count % _SAVE_EVERY == 0:
                    state.save()
            progress(stage, rows.count, rows.limit)
    state.finish(rows)
    if rows.count < rows.limit:  # fewer rows than asked for: the stage ends here
        progress(stage, rows.count, rows.count)
    return state.observers


def _initial_state(
    graphs: Mapping[str, ir.Model],
    components: Mapping[str, bool],
    cache: Path | None,
    identity: str,
) -> CollectionState:
    path = None if cache is None else cache / f"{identity[:16]}{_SUFFIX}"
    observers = {
        name: new_observers(graphs[name].graph, gram=gram) for name, gram in components.items()
    }
    state = CollectionState(path, observers, identity)
    state.load()
    return state


def _tapped(graphs: Mapping[str, ir.Model], components: Mapping[str, bool]) -> dict[str, ir.Model]:
    """Return the graphs, the watched ones with taps."""
    return {
        name: add_taps(model, find_activations(model.graph)) if name in components else model
        for name, model in graphs.items()
    }


def _identity(folder: Path, settings: Sequence[Any]) -> str:
    """Return a hash of all that the statistics depend on but the rows."""
    hashes = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    record = json_text([_VERSION, *settings, hashes])
    return hashlib.sha256(record.encode()).hexdigest()


class _Watcher:
    """Hands what the taps give to the observers, a row at a time: one token alone costs them as much as a prompt.

    What it keeps back is bounded, and the groups depend on the row only, so that a resumed run sums alike.
    """

    def __init__(self, observers: Mapping[str, GraphObservers]) -> None:
        self._observers = observers
        self._kept: dict[str, dict[str, list[npt.NDArray[Any]]]] = {}
        self._kept_bytes = 0
        self.where = ""

    def __call__(self, component: str, values: Mapping[str, npt.NDArray[Any]]) -> None:
        if component not in self._observers:
            return
        kept = self._kept.setdefault(component, {})
        for name, array in values.items():
            kept.setdefault(name, []).append(array.reshape(-1, array.shape[-1]))
            self._kept_bytes += array.nbytes
        if self._kept_bytes > _MOST_KEPT_BYTES:
            self.flush()

    def flush(self) -> None:
        """Let the observers take in what was kept back.

        Raises:
            DataError: A value is not finite.
        """
        kept, self._kept, self._kept_bytes = self._kept, {}, 0
        for component, lists in kept.items():
            values = {name: np.concatenate(arrays) for name, arrays in lists.items()}
            update_observers(self._observers[component], values, f"{self.where}: {component}")


def run_row(sessions: TappedSessions, row: CalibrationRow, decode_steps: int) -> None:
    """Run the prompt, then greedy tokens until the answer ends."""
    inputs, facts = row.inputs, sessions.facts
    logits, state = sessions.prefill(sessions.prompt(inputs).embeds, inputs.attention_mask)
    room = facts.context_length - inputs.prompt_lengths[0]
    for _ in range(min(decode_steps, room)):
        token = greedy_tokens(logits, f"calibration, {row.where}")
        if int(token[0]) in facts.eos_token_ids:
            return
        logits = sessions.decode(token, state)
