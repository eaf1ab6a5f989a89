"""Each op alone: its ONNX function body against the numpy reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from moir_edge.ops import DOMAIN, OPS, VERSION, function_protos, onnx_schemas
from moir_edge.ops.reference import route_tokens, similarity_top_k, token_information
from moir_edge.router import RouterConfig

HIDDEN, RANK = 20, 6
# float32 products of 20 terms summed in another order.
TOLERANCE = 1e-5


def run_op(
    name: str, feeds: dict[str, np.ndarray[Any, Any]], config: RouterConfig, **attributes: Any
) -> list[np.ndarray[Any, Any]]:
    """Run a one-node model in ONNX Runtime, which inlines the function."""
    kinds = {"float": TensorProto.FLOAT, "bool": TensorProto.BOOL, "int64": TensorProto.INT64}
    op = OPS[name]
    node = helper.make_node(name, list(feeds), list(op.outputs), domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(item, kinds[op.inputs[item][0]], [None] * value.ndim)
            for item, value in feeds.items()
        ],
        [
            helper.make_tensor_value_info(item, kinds[kind], [None] * len(shape.split(",")))
            for item, (kind, shape) in op.outputs.items()
        ],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(
        graph, opset_imports=opsets, functions=function_protos(config), ir_version=10
    )
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    result: list[np.ndarray[Any, Any]] = session.run(None, feeds)
    return result


def normal(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("density", ["confidence", "entropy"])
@pytest.mark.parametrize(("ratio", "threshold"), [(0.5, None), (0.37, 0.5), (None, 0.6)])
def test_token_information(density: Any, ratio: float | None, threshold: float | None) -> None:
    config = RouterConfig(density=density, ratio=ratio, threshold=threshold)
    valid = np.ones((3, 11), bool)
    valid[1, 7:] = False
    valid[2] = False
    feeds: dict[str, np.ndarray[Any, Any]] = {
        "tokens": normal(3, 11, HIDDEN),
        "valid": valid,
        "scale": 1 + 0.1 * normal(HIDDEN),
        "shift": 0.1 * normal(HIDDEN, seed=1),
    }
    if density == "confidence":
        feeds |= {"weight": normal(HIDDEN, 1), "bias": normal(1)}
    limits = {"ratio": ratio, "threshold": threshold}
    used = {name: value for name, value in limits.items() if value is not None}
    found = run_op("TokenInformation", feeds, config, density_kind=density, **used)
    expected = token_information(**feeds, density=density, **limits)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0)
    np.testing.assert_array_equal(found[1] > 0, expected[1] > 0)
    if ratio == 0.5 and threshold is None:
        # Half of 11 and half of 7, rounded up.
        assert (found[1] > 0).sum(axis=1).tolist() == [6, 4, 0]


@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("sources", [1, 2, 9])
def test_similarity_top_k(k: int, sources: int) -> None:
    valid = np.ones((3, sources), bool)
    valid[1, 1:] = False
    valid[2] = False
    feeds = {
        "queries": normal(3, 5, HIDDEN),
        "keys": normal(3, sources, HIDDEN),
        "density": np.abs(normal(3, sources)).clip(0, 1),
        "valid": valid,
        "query_weight": normal(HIDDEN, RANK),
        "key_weight": normal(HIDDEN, RANK, seed=1),
    }
    weights, indices, margin = run_op("SimilarityTopK", feeds, RouterConfig(), k=k)
    expected = similarity_top_k(**feeds, k=k)
    np.testing.assert_array_equal(indices, expected[1])
    # Weights count only where there is a source; without any, the gate is shut.
    np.testing.assert_allclose(weights * (indices >= 0), expected[0], atol=TOLERANCE)
    # Similarities here reach 50, where float32 has a spacing of 4e-6 and the sums have 20 × 6 terms.
    np.testing.assert_allclose(margin, expected[2], atol=1e-4)


@pytest.mark.parametrize("merge", ["add", "concat", "interpolate"])
def test_route_tokens(merge: Any) -> None:
    indices = np.array([[[0, 2], [1, -1], [2, 1]], [[-1, -1], [0, 1], [2, 0]]])
    weights = np.where(indices >= 0, np.abs(normal(2, 3, 2)), 0).astype(np.float32)
    feeds: dict[str, np.ndarray[Any, Any]] = {
        "tokens": normal(2, 3, HIDDEN),
        "sources": normal(2, 3, HIDDEN, seed=1),
        "weights": weights,
        "indices": indices,
        "gate": np.abs(normal(2, 3)),
        "down": normal(HIDDEN, RANK),
        "up": normal(RANK, HIDDEN),
    }
    if merge == "concat":
        feeds |= {"merge_weight": normal(HIDDEN, RANK), "normalized": normal(2, 3, HIDDEN, seed=2)}
    if merge == "interpolate":
        feeds |= {"merge_weight": np.tanh(normal(HIDDEN))}
    (routed,) = run_op("RouteTokens", feeds, RouterConfig(merge=merge), merge=merge)
    # Two chained products of 20 and 6 terms with results near 100.
    np.testing.assert_allclose(routed, route_tokens(**feeds, merge=merge), atol=1e-4)


def test_function_signatures_are_prefixes_of_the_schema() -> None:
    for density in ("confidence", "entropy"):
        for merge in ("add", "concat", "interpolate"):
            for function in function_protos(RouterConfig(density=density, merge=merge)):
                op = OPS[function.name]
                assert list(op.inputs)[: len(function.input)] == list(function.input)
                assert list(op.outputs) == list(function.output)
                assert set(function.attribute) == set(op.attributes)
                needed = [name for name, (_, _, optional) in op.inputs.items() if not optional]
                assert set(needed) <= set(function.input)


def test_schemas_can_be_registered() -> None:
    schemas = onnx_schemas()
    for schema in schemas:
        onnx.defs.register_schema(schema)
    try:
        found = onnx.defs.get_schema("RouteTokens", VERSION, DOMAIN)
        assert [item.name for item in found.inputs] == list(OPS["RouteTokens"].inputs)
    finally:
        for schema in schemas:
            onnx.defs.deregister_schema(schema.name, VERSION, DOMAIN)
