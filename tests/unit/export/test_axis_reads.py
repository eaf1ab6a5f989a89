"""Each named axis is read once, from the first input that has it; other shapes are read as before."""

from __future__ import annotations

import onnx_ir as ir

from moir_edge.bundle import TensorSpec
from moir_edge.export.axis_reads import read_axes_once

INPUTS = (
    TensorSpec(name="inputs_embeds", dtype="float32", shape=("batch", "sequence", 8)),
    TensorSpec(name="past.0", dtype="float32", shape=("batch", 2, "past_sequence", 4)),
    TensorSpec(name="past.1", dtype="float32", shape=("batch", 2, "past_sequence", 4)),
)


def graph(*reads: tuple[str, int, int]) -> ir.Model:
    """Return a graph that joins parts of the shapes of inputs."""
    values = {
        one.name: ir.Value(name=one.name, type=ir.TensorType(ir.DataType.FLOAT)) for one in INPUTS
    }
    nodes = [
        ir.node("Shape", [values[name]], {"start": start, "end": end}) for name, start, end in reads
    ]
    join = ir.node("Concat", [node.outputs[0] for node in nodes], {"axis": 0})
    made = ir.Graph([*values.values()], join.outputs, nodes=[*nodes, join], opset_imports={"": 21})
    return ir.Model(made, ir_version=10)


def read(model: ir.Model) -> list[tuple[str, int, int]]:
    """Return what the last node joins."""
    found = []
    for value in list(model.graph)[-1].inputs:
        assert value is not None
        node = value.producer()
        assert node is not None
        start, end = (node.attributes.get_int(name, -9) for name in ("start", "end"))
        found.append((str(node.inputs[0].name), start, end))  # type: ignore[union-attr]
    return found


def test_an_axis_is_read_from_the_first_input_that_has_it() -> None:
    model = graph(("past.1", 2, 3), ("past.1", 0, 1), ("inputs_embeds", 1, 2), ("past.0", -2, -1))
    read_axes_once(model, INPUTS)
    past = ("past.0", 2, 3)
    assert read(model) == [past, ("inputs_embeds", 0, 1), ("inputs_embeds", 1, 2), past]
    # Once each, in the order of the interface, in front.
    names = [str(node.inputs[0].name) for node in list(model.graph)[:-1]]  # type: ignore[union-attr]
    assert names == ["inputs_embeds", "inputs_embeds", "past.0"]


def test_the_order_of_reads_in_the_trace_does_not_matter() -> None:
    one = graph(("past.0", 2, 3), ("inputs_embeds", 0, 1))
    other = graph(("inputs_embeds", 0, 1), ("past.1", 2, 3))
    for model in (one, other):
        read_axes_once(model, INPUTS)
    assert [str(node.op_type) for node in one.graph] == [str(node.op_type) for node in other.graph]
    assert sorted(read(one)) == sorted(read(other))


def test_fixed_axes_and_whole_shapes_are_left_alone() -> None:
    reads = [("past.1", 1, 2), ("past.1", 0, 4), ("inputs_embeds", 2, 3)]
    model = graph(*reads)
    read_axes_once(model, INPUTS)
    assert read(model) == reads
