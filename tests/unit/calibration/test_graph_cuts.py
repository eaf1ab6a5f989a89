"""Graphs cut behind groups of taps: the pieces, run one after the other, give what the whole graph gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from moir_edge.calibration.graph_cuts import LIVE, GraphCuts
from moir_edge.calibration.recording import Recording, Values
from moir_edge.graphs.sessions import TAP_PREFIX

WIDTH = 4
CACHES = {"past.0": "present.0", "past.1": "present.1"}
TAPS = ("a0", "a1", "b0", "b1")
"""What the products of layer 0 and of layer 1 read."""


def _weight(name: str, seed: int) -> onnx.TensorProto:
    values = np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)).astype(np.float16)
    return onnx.numpy_helper.from_array(values, name)


def _layer(at: int, begin: str, end: str, first: str, second: str) -> list[onnx.NodeProto]:
    """Return a layer with a residual path, a cache along axis 0, a widened weight, and a branch that reads the layer's own values."""
    then, other = (
        helper.make_graph(
            [helper.make_node(operator, [f"mixed{at}"], [f"branch{at}"])], operator, [],
            [helper.make_tensor_value_info(f"branch{at}", TensorProto.FLOAT, None)],
        )
        for operator in ("Relu", "Neg")
    )  # fmt: skip
    return [
        helper.make_node("Mul", [begin, "scale"], [first]),
        helper.make_node("Cast", [f"narrow{at}"], [f"w{at}"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", [first, f"w{at}"], [f"key{at}"]),
        helper.make_node("Concat", [f"past.{at}", f"key{at}"], [f"present.{at}"], axis=0),
        helper.make_node("ReduceSum", [f"present.{at}", "axes"], [f"sum{at}"]),
        helper.make_node("Add", [f"sum{at}", first], [f"mixed{at}"]),
        helper.make_node("If", ["is_long"], [second], then_branch=then, else_branch=other),
        helper.make_node("MatMul", [second, f"w{at}"], [f"out{at}"]),
        helper.make_node("Add", [begin, f"out{at}"], [end]),
    ]


def _model() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], start=0, end=1),
        helper.make_node("Greater", ["shape", "one"], ["longs"]),
        helper.make_node("Squeeze", ["longs"], ["is_long"]),
        *_layer(0, "x", "middle", "a0", "a1"),
        *_layer(1, "middle", "y", "b0", "b1"),
        helper.make_node("MatMul", ["y", "head"], ["logits"]),
    ]
    nodes += [helper.make_node("Identity", [name], [f"{TAP_PREFIX}{name}"]) for name in TAPS]
    matrix = [None, WIDTH]
    described = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, matrix)
        for name in ("x", "logits", *CACHES, *CACHES.values(), *(f"{TAP_PREFIX}{t}" for t in TAPS))
    }
    graph = helper.make_graph(
        nodes,
        "two layers",
        [described[name] for name in ("x", *CACHES)],
        [value for name, value in described.items() if name not in ("x", *CACHES)],
        [
            _weight("narrow0", 0), _weight("narrow1", 1),
            onnx.numpy_helper.from_array(np.eye(WIDTH, dtype=np.float32), "head"),
            onnx.numpy_helper.from_array(np.float32(0.5), "scale"),
            onnx.numpy_helper.from_array(np.array([0]), "axes"),
            onnx.numpy_helper.from_array(np.array([1]), "one"),
        ],
    )  # fmt: skip
    opset = helper.make_opsetid("", 21)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10)


def _run(model: onnx.ModelProto, feed: Values) -> Values:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    wanted = {one.name for one in session.get_inputs()}
    return dict(
        zip(names, session.run(names, {k: v for k, v in feed.items() if k in wanted}), strict=True)
    )


def _inputs(model: onnx.ModelProto) -> set[str]:
    return {value.name for value in model.graph.input}


def _outputs(model: onnx.ModelProto) -> set[str]:
    return {value.name for value in model.graph.output}


X = [
    np.random.default_rng(7).normal(size=(length, WIDTH)).astype(np.float32) for length in (3, 1, 1)
]
EMPTY = np.zeros((0, WIDTH), np.float32)


def _whole_runs() -> list[Values]:
    """Return what the graph gives for a prompt and two steps after it."""
    found: list[Values] = []
    caches = dict.fromkeys(CACHES, EMPTY)
    for x in X:
        found.append(_run(_model(), {"x": x, **caches}))
        caches = {past: found[-1][present] for past, present in CACHES.items()}
    return found


@pytest.mark.parametrize(
    "groups",
    [(TAPS[:2], TAPS[2:]), tuple((tap,) for tap in TAPS), (TAPS[:3], TAPS[3:])],
    ids=["by layer", "one by one", "within a layer"],
)
def test_the_pieces_give_what_the_whole_graph_gives(groups: Sequence[Sequence[str]]) -> None:
    cuts = GraphCuts(_model(), CACHES)
    expected = _whole_runs()
    begins: list[Values] = []
    caches = dict.fromkeys(CACHES, EMPTY)
    live = cuts.live(groups[0], [tap for group in groups[1:] for tap in group])
    whole = cuts.whole(groups[0], live)
    for x, run in zip(X, expected, strict=True):
        found = _run(whole, {"x": x, **caches})
        caches = {past: found[present] for past, present in CACHES.items()}
        begins.append({name: found[f"{TAP_PREFIX}{LIVE}{name}"] for name in live})
        for tap in groups[0]:
            np.testing.assert_array_equal(found[f"{TAP_PREFIX}{tap}"], run[f"{TAP_PREFIX}{tap}"])
    for at, group in enumerate(groups[1:], start=1):
        seen = [tap for one in groups[: at + 1] for tap in one]
        live = cuts.live(seen, [tap for one in groups[at + 1 :] for tap in one])
        piece = cuts.segment(group, live, begins[0])
        own = _inputs(piece) & set(CACHES)
        assert _outputs(piece) & set(CACHES.values()) == {CACHES[name] for name in own}
        caches, ends = dict.fromkeys(own, EMPTY), []
        for begin, run in zip(begins, expected, strict=True):
            found = _run(piece, {**begin, **caches})
            caches = {name: found[CACHES[name]] for name in own}
            ends.append({name: found[f"{TAP_PREFIX}{LIVE}{name}"] for name in live})
            for tap in group:
                np.testing.assert_array_equal(
                    found[f"{TAP_PREFIX}{tap}"], run[f"{TAP_PREFIX}{tap}"]
                )
        begins = ends


def test_what_lives_across_a_cut_is_the_least_that_goes_on() -> None:
    cuts = GraphCuts(_model(), CACHES)
    # Behind the last product of layer 0: its input, the residual, and the condition that no cache and no weight tells.
    assert cuts.live(["a0", "a1"], ["b0", "b1"]) == ["a1", "is_long", "x"]
    assert cuts.live(TAPS, []) == []
    assert cuts.live([], ["a0"]) == ["x"]


def test_a_piece_holds_its_own_layer_alone() -> None:
    cuts = GraphCuts(_model(), CACHES)
    one = np.zeros((1, WIDTH), np.float32)
    piece = cuts.segment(["b0", "b1"], [], {"a1": one, "is_long": np.array(True), "x": one})
    assert _inputs(piece) == {"a1", "is_long", "x", "past.1"}
    assert {weight.name for weight in piece.graph.initializer} == {
        "narrow0", "narrow1", "scale", "axes",
    }  # fmt: skip
    computed = {name for node in piece.graph.node for name in node.output}
    assert computed.isdisjoint({"key0", "a0", "a1", "logits", "shape"})


def test_rows_without_a_run_are_part_of_a_recording() -> None:
    """Data of today all have a picture; a tower that a row leaves out would have no run."""
    recording = Recording(("h",))
    recording.add(1, [])
    assert recording.example() is None
    assert not recording.holds(1)  # nothing to go on from
    recording.add(2, [{"h": np.ones(2)}, {"h": np.zeros(2)}])
    assert recording.holds(2)
    example = recording.example()
    assert example is not None
    np.testing.assert_array_equal(example["h"], np.ones(2))


def test_a_recording_gives_back_the_runs_of_each_row() -> None:
    recording = Recording(("h", "flag"))
    rows = {
        1: [{"h": np.ones((2, 3), np.float32), "flag": np.array(True)}],
        2: [{"h": np.full((1, at), at), "flag": np.array([at])} for at in (1, 2, 3)],
        3: [],
    }
    for row, runs in rows.items():
        recording.add(row, runs)
    assert recording.holds(3)
    assert not recording.holds(2)
    assert not recording.holds(4)
    for row, runs in rows.items():
        found = list(recording.runs(row))
        assert len(found) == len(runs)
        for one, other in zip(found, runs, strict=True):
            assert list(one) == ["h", "flag"]
            for name, array in one.items():
                np.testing.assert_array_equal(array, other[name])
                assert array.dtype == other[name].dtype
