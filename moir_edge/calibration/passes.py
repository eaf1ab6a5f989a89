"""One pass of calibration rows through the graphs, with some of their activations watched."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.bundle.reader import file_sha256
from moir_edge.calibration.cut_graphs import CutGraphs
from moir_edge.calibration.graph_cuts import LIVE
from moir_edge.calibration.groups import Observers
from moir_edge.calibration.recording import Recording, Values
from moir_edge.calibration.rows import CalibrationRow, CalibrationRows
from moir_edge.calibration.state import CollectionState
from moir_edge.calibration.taps import GraphObservers, update_observers
from moir_edge.finite import json_text
from moir_edge.graphs.sessions import (
    TappedComponent,
    TappedSessions,
    greedy_tokens,
    tapped_component,
)
from moir_edge.precisions import FP32

__all__ = ["RowPasses", "run_row"]

_SAVE_EVERY = 32  # rows
_MOST_KEPT_BYTES = 1 << 23
_VERSION = 4
_SUFFIX = ".statistics"


@dataclass(frozen=True)
class RowPasses:
    """Passes over calibration rows.

    Attributes:
        folder: Holds ``<component>.onnx``, with taps for what a pass watches.
        facts: The model's facts.
        components: Names of all components.
        decode_steps: Greedy tokens after each prompt.
        cache: Folder for the statistics; None saves nothing.
        is_large: Whether the graphs' weights are to stay in their files.
        cut: The graphs of several groups; None for all layers in one pass.
    """

    folder: Path
    facts: ModelFacts
    components: tuple[str, ...]
    decode_steps: int
    cache: Path | None
    is_large: bool
    cut: CutGraphs | None = None

    def watch(self, group: Observers, rows: CalibrationRows) -> Iterator[int]:
        """Let observers see all rows, and yield how many were read so far, 0 first.

        Args:
            group: By component; filled, or replaced by those of the cache.
            rows: Read to their end.

        Raises:
            DataError: As `moir_edge.calibration.collection.collect`.
        """
        state = self._state(group, rows)
        recordings = {} if self.cut is None else self.cut.new_recordings()
        watcher = _Watcher(group, recordings)
        run = self._run(group, watcher)
        yield 0
        for row in rows:
            if state.wants(rows):
                watcher.where = row.where
                run(row, rows.count)
                watcher.flush(rows.count)
                state.advance(rows)
                if rows.count % _SAVE_EVERY == 0:
                    state.save()
            yield rows.count
        state.finish(rows)
        if self.cut is not None:
            self.cut.keep(recordings, rows.count)

    def _run(self, group: Observers, watcher: _Watcher) -> Callable[[CalibrationRow, int], None]:
        """Return what runs a row, given with its number: the group's layers on what the pass before left, or the whole model."""
        if self.cut is not None and self.cut.goes_on:
            segments = {name: self._segment(self.cut, name, watcher) for name in group}
            return lambda _, count: self._go_on(segments, count)
        precisions = dict.fromkeys(self.components, FP32)
        sessions = TappedSessions(
            self.folder,
            precisions,
            self.facts,
            watch=watcher,
            tiles_per_run=1,
            frugal=self.is_large,
            in_order=self.is_large,
        )
        # Nothing behind the last watched component is run.
        steps = self.decode_steps if "decoder" in group else None
        return lambda row, _: run_row(sessions, row, steps)

    def _segment(
        self, cut: CutGraphs, name: str, watcher: _Watcher
    ) -> tuple[TappedComponent, Recording]:
        graph, large = cut.write_segment(name), self.is_large
        segment = tapped_component(name, graph, watch=watcher, frugal=large, in_order=large)
        return segment, cut.recording(name)

    def _go_on(self, segments: Mapping[str, tuple[TappedComponent, Recording]], row: int) -> None:
        """Run the group's layers as often as the whole model ran; what they keep in the cache goes from run to run."""
        facts = self.facts
        empty = np.zeros((1, facts.num_kv_heads, 0, facts.head_dim), np.float32)
        for segment, recording in segments.values():
            own = [name for name in segment.inputs if name not in recording.names]
            cache = dict.fromkeys(own, empty)
            for values in recording.runs(row):
                feed = {name: values[name] for name in segment.inputs if name in values}
                # The outputs are the cache's, in the order of its inputs.
                grown = segment.arrays({**feed, **cache}, segment.outputs)
                cache = dict(zip(own, grown, strict=True))

    def _state(self, group: Observers, rows: CalibrationRows) -> CollectionState:
        """Return the state of one pass, taken up from the cache where there is one."""
        path, identity = None, ""
        if self.cache is not None:
            identity = self._identity(group, rows)
            path = self.cache / f"{identity[:16]}{_SUFFIX}"
        state = CollectionState(path, group, identity)
        state.load()
        return state

    def _identity(self, group: Observers, rows: CalibrationRows) -> str:
        """Return a hash of all that the statistics depend on but the rows."""
        grams = [
            (component, any(one.has_gram for one in own.values()))
            for component, own in sorted(group.items())
        ]
        files = sorted(self.folder.iterdir()) if self.cut is None else self.cut.files()
        hashes = {path.name: file_sha256(path) for path in files}
        settings = (self.decode_steps, rows.limit, *rows.balance.conditions)
        record = json_text([_VERSION, settings, grams, hashes])
        return hashlib.sha256(record.encode()).hexdigest()


class _Watcher:
    """Hands what the taps give to the observers, a row at a time: one token alone costs them as much as a prompt.

    What it keeps back is bounded, and the groups depend on the row only, so that a resumed run sums alike. What lives across a
    cut goes to the recordings.
    """

    def __init__(
        self, observers: Mapping[str, GraphObservers], recordings: Mapping[str, Recording]
    ) -> None:
        self._observers = observers
        self._recordings = recordings
        self._kept: dict[str, dict[str, list[npt.NDArray[Any]]]] = {}
        self._kept_bytes = 0
        self._live: dict[str, list[Values]] = {name: [] for name in recordings}
        self.where = ""

    def __call__(self, component: str, values: Mapping[str, npt.NDArray[Any]]) -> None:
        if component not in self._observers:
            return
        if component in self._live:
            names = self._recordings[component].names
            self._live[component].append({name: values[f"{LIVE}{name}"] for name in names})
        kept = self._kept.setdefault(component, {})
        for name, array in values.items():
            if not name.startswith(LIVE):
                kept.setdefault(name, []).append(array.reshape(-1, array.shape[-1]))
                self._kept_bytes += array.nbytes
        if self._kept_bytes > _MOST_KEPT_BYTES:
            self._observe()

    def flush(self, row: int) -> None:
        """Let the observers take in what was kept back, and the recordings the runs of the row of this number.

        Raises:
            DataError: A value is not finite.
            OSError: The disk is full.
        """
        self._observe()
        for component, runs in self._live.items():
            self._recordings[component].add(row, runs)
            runs.clear()

    def _observe(self) -> None:
        kept, self._kept, self._kept_bytes = self._kept, {}, 0
        for component, lists in kept.items():
            values = {name: np.concatenate(arrays) for name, arrays in lists.items()}
            update_observers(self._observers[component], values, f"{self.where}: {component}")


def run_row(sessions: TappedSessions, row: CalibrationRow, decode_steps: int | None) -> None:
    """Run the prompt, then greedy tokens until the answer ends; None leaves the decoder out."""
    inputs, facts = row.inputs, sessions.facts
    run = sessions.prompt(inputs)
    if decode_steps is None:
        return
    logits, state = sessions.prefill(run.embeds, run.decoder)
    room = facts.context_length - inputs.prompt_lengths[0]
    for _ in range(min(decode_steps, room)):
        token = greedy_tokens(logits, f"calibration, {row.where}")
        if int(token[0]) in facts.eos_token_ids:
            return
        logits = sessions.decode(token, state)
