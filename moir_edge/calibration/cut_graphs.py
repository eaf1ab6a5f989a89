"""The graphs of a folder, cut behind each group of layers: a pass runs its layers on what the pass before left."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import onnx

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.calibration.graph_cuts import GraphCuts
from moir_edge.calibration.recording import Recording
from moir_edge.runtime.decoders.growing import cache_pairs

__all__ = ["CutGraphs"]

_SEGMENT = ".segment.onnx"


class CutGraphs:
    """Writes the graphs of a folder again, with the taps of one group and what lives across the cut behind it.

    Args:
        folder: Holds ``<component>.onnx`` with all taps; their weights stay where they lie.
        groups: By component, the names of the taps of every pass.
        facts: The model's facts.
    """

    def __init__(
        self, folder: Path, groups: Sequence[Mapping[str, Collection[str]]], facts: ModelFacts
    ) -> None:
        self._folder = folder
        self._groups = groups
        self._at = 0
        caches = {"decoder": cache_pairs(facts.num_layers)}
        self._cuts = {
            name: GraphCuts(
                onnx.load(folder / f"{name}.onnx", load_external_data=False), caches.get(name, {})
            )
            for name in dict.fromkeys(name for group in groups for name in group)
        }
        self._recordings: dict[str, Recording] = {}

    def choose(self, at: int) -> None:
        """Write the whole graphs for one of the passes."""
        self._at = at
        for component, cuts in self._cuts.items():
            taps = self._groups[at].get(component, ())
            _write(cuts.whole(taps, self._live(component)), self._folder / f"{component}.onnx")

    @property
    def goes_on(self) -> bool:
        """Whether all components of the pass can go on from recordings."""
        return all(name in self._recordings for name in self._groups[self._at])

    def recording(self, component: str) -> Recording:
        """Return what the pass before left of a component's runs."""
        return self._recordings[component]

    def write_segment(self, component: str) -> Path:
        """Write the graph of the pass's own layers."""
        begin = self._recordings[component].example() or {}
        taps = self._groups[self._at][component]
        path = self._folder / f"{component}{_SEGMENT}"
        _write(self._cuts[component].segment(taps, self._live(component), begin), path)
        return path

    def new_recordings(self) -> dict[str, Recording]:
        """Return an empty recording for each component of the pass that a later pass goes on from."""
        live = {name: self._live(name) for name in self._groups[self._at]}
        return {name: Recording(own) for name, own in live.items() if own}

    def keep(self, recordings: Mapping[str, Recording], rows: int) -> None:
        """Take over the recordings of a pass, as far as they hold all rows; older ones of the same components go."""
        for component in self._groups[self._at]:
            self._recordings.pop(component, None)
        self._recordings |= {name: one for name, one in recordings.items() if one.holds(rows)}

    def files(self) -> list[Path]:
        """Return the whole graphs and their weights, in order of name."""
        return sorted(path for path in self._folder.iterdir() if not path.name.endswith(_SEGMENT))

    def _live(self, component: str) -> list[str]:
        """Return what lives across the cut behind the pass, or behind an earlier one where the pass has no tap."""
        seen = [tap for group in self._groups[: self._at + 1] for tap in group.get(component, ())]
        later = [tap for group in self._groups[self._at + 1 :] for tap in group.get(component, ())]
        return self._cuts[component].live(seen, later)


def _write(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString(deterministic=True))
