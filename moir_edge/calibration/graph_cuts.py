"""Cut a graph between its layers: what lives across a cut, and the smallest graph that goes on from there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnx

from moir_edge.graphs.sessions import TAP_PREFIX

__all__ = ["LIVE", "GraphCuts"]

LIVE = "live/"
"""How the names of taps begin that hold what a later graph goes on from."""


class GraphCuts:
    """The graphs that one component is run as.

    Args:
        model: The whole graph with all its taps, without its weights.
        caches: Inputs that hold what an output of the run before gave, with that output; they stay with their layer.
    """

    def __init__(self, model: onnx.ModelProto, caches: Mapping[str, str]) -> None:
        graph = model.graph
        self._model = model
        self._caches = caches
        self._nodes = [node for node in graph.node if not node.output[0].startswith(TAP_PREFIX)]
        # The value that each tap shows.
        self._shown = {
            node.output[0].removeprefix(TAP_PREFIX): node.input[0]
            for node in graph.node
            if node.output[0].startswith(TAP_PREFIX)
        }
        self._inputs = {value.name: value for value in graph.input}
        self._reads = [list(_read(node)) for node in self._nodes]
        self._at = {name: at for at, node in enumerate(self._nodes) for name in node.output if name}
        self._fixed = self._constants()

    def live(self, seen: Iterable[str], later: Collection[str]) -> list[str]:
        """Return the values that the later taps go on from once some were seen.

        Args:
            seen: Names of the taps up to the cut, which is behind the last of them.
            later: Names of the taps to come.
        """
        end = max((self._at.get(self._shown[name], -1) for name in seen), default=-1)
        sources = {self._shown[name] for name in later}
        nodes, _ = self._needed(sources, ())
        reads = sources | {name for at in nodes if at > end for name in self._reads[at]}
        return sorted(
            name
            for name in reads - self._fixed
            if (name in self._inputs or self._at.get(name, end + 1) <= end)
            and not self._stays(name, end)
        )

    def whole(self, taps: Iterable[str], live: Iterable[str]) -> onnx.ModelProto:
        """Return the graph with some of its taps, and with values that live across its cut."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        graph = model.graph
        outputs = [value for value in graph.output if not value.name.startswith(TAP_PREFIX)]
        del graph.node[:], graph.output[:]
        graph.node.extend(self._nodes)
        graph.output.extend(outputs)
        self._show(graph, taps, live)
        return model

    def segment(
        self, taps: Iterable[str], live: Iterable[str], begin: Mapping[str, npt.NDArray[np.generic]]
    ) -> onnx.ModelProto:
        """Return the graph from one cut to the next.

        Args:
            taps: Names of those between the two.
            live: Values that live across the cut behind them.
            begin: An example of every value that lives across the cut before them.
        """
        taps, live = list(taps), list(live)
        nodes, inputs = self._needed({*live, *(self._shown[name] for name in taps)}, begin)
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        graph = model.graph
        weights = list(graph.initializer)
        read = {name for at in nodes for name in self._reads[at]}
        del graph.node[:], graph.input[:], graph.output[:], graph.initializer[:]
        graph.node.extend(self._nodes[at] for at in sorted(nodes))
        graph.initializer.extend(weight for weight in weights if weight.name in read)
        caches = sorted(name for name in inputs if name not in begin)
        graph.input.extend(self._inputs[name] for name in caches)
        graph.input.extend(
            _described(name, begin[name]) for name in sorted(inputs) if name in begin
        )
        graph.output.extend(onnx.ValueInfoProto(name=self._caches[name]) for name in caches)
        self._show(graph, taps, live)
        return model

    def _show(self, graph: onnx.GraphProto, taps: Iterable[str], live: Iterable[str]) -> None:
        """Add outputs for taps and for live values."""
        shown = {f"{TAP_PREFIX}{name}": self._shown[name] for name in taps}
        shown |= {f"{TAP_PREFIX}{LIVE}{name}": name for name in live}
        for name, source in shown.items():
            graph.node.append(onnx.helper.make_node("Identity", [source], [name]))
            graph.output.append(onnx.ValueInfoProto(name=name))

    def _needed(self, wanted: Iterable[str], given: Collection[str]) -> tuple[set[int], set[str]]:
        """Return the nodes that compute some values, and the inputs of theirs; the caches they read are computed anew, too."""
        nodes: set[int] = set()
        inputs: set[str] = set()
        todo, seen = list(wanted), set[str]()
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            at = self._at.get(name)
            if name in given or (at is None and name in self._inputs):
                inputs.add(name)
                if name not in given and name in self._caches:
                    todo.append(self._caches[name])
            elif at is not None and at not in nodes:
                nodes.add(at)
                todo += self._reads[at]
        return nodes, inputs

    def _stays(self, name: str, end: int) -> bool:
        """Say whether an input is a cache that is computed behind the cut, so that each run hands it to the next."""
        return name in self._caches and self._at[self._caches[name]] > end

    def _constants(self) -> set[str]:
        """Return the values that no input has a part in; they are computed wherever they are wanted."""
        fixed = {weight.name for weight in self._model.graph.initializer} - set(self._inputs)
        for node, reads in zip(self._nodes, self._reads, strict=True):
            if fixed.issuperset(reads):
                fixed |= set(node.output)
        return fixed


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, those of the graphs inside it counted."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            own = {name for inner in graph.node for name in inner.output}
            own |= {value.name for value in (*graph.input, *graph.initializer)}
            yield from (name for inner in graph.node for name in _read(inner) if name not in own)


def _described(name: str, value: npt.NDArray[np.generic]) -> onnx.ValueInfoProto:
    dtype = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    return onnx.helper.make_tensor_value_info(name, dtype, [None] * value.ndim)
