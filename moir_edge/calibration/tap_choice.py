"""Choose anew which taps graphs on disk have; their weights stay where they lie."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import onnx

from moir_edge.graphs.sessions import TAP_PREFIX

__all__ = ["TapChoice"]


class TapChoice:
    """Writes the graphs of a folder again with some of their taps.

    Args:
        folder: Holds ``<component>.onnx`` with all taps.
        components: Those that have taps.
    """

    def __init__(self, folder: Path, components: Iterable[str]) -> None:
        self._folder = folder
        self._graphs = {
            name: onnx.load(folder / f"{name}.onnx", load_external_data=False)
            for name in components
        }

    def keep(self, chosen: Mapping[str, Collection[str]]) -> None:
        """Write every graph with the chosen taps and no other.

        Args:
            chosen: Component name to names of activations; a component that is not named has none.
        """
        for component, whole in self._graphs.items():
            wanted = {f"{TAP_PREFIX}{name}" for name in chosen.get(component, ())}
            model = onnx.ModelProto()
            model.CopyFrom(whole)
            graph = model.graph
            nodes = [node for node in graph.node if _is_wanted(node.output[0], wanted)]
            outputs = [value for value in graph.output if _is_wanted(value.name, wanted)]
            del graph.node[:], graph.output[:]
            graph.node.extend(nodes)
            graph.output.extend(outputs)
            path = self._folder / f"{component}.onnx"
            path.write_bytes(model.SerializeToString(deterministic=True))


def _is_wanted(name: str, wanted: Collection[str]) -> bool:
    return not name.startswith(TAP_PREFIX) or name in wanted
