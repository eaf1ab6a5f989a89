"""The router graph against the torch router and the numpy reference, and in TensorRT-RTX."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from moir_edge.ops import DOMAIN, ROUTER_INPUTS, ROUTER_OUTPUTS, router_graph
from moir_edge.ops.reference_router import route
from moir_edge.router import Router, RouterConfig, TokenRouter, build_router

HIDDEN = 24
# float32 sums of 24 products in another order differ by a few units in the last place of values near 10.
TOLERANCE = 2e-5
FIELDS = ("inputs_embeds", "scores", "indices", "margin", "gate")


def awake_router(config: RouterConfig) -> TokenRouter:
    torch.manual_seed(2)
    router = TokenRouter(config, HIDDEN).eval()
    for name, parameter in router.named_parameters():
        if name.endswith(("up.weight", "blend")):
            torch.nn.init.normal_(parameter, std=0.3)
        if name.endswith(("gate_edge", "gate_slope")):
            # An edge of 0.6 and a slope of 1.8: some tokens of either score lie above, on and under the ramp.
            torch.nn.init.constant_(parameter, -0.04 if "edge" in name else 0.06)
        if "norm" in name:
            torch.nn.init.normal_(parameter, mean=float("weight" in name), std=0.1)
    return router


def pooled_router(config: RouterConfig) -> Router:
    torch.manual_seed(2)
    router = build_router(config, HIDDEN).eval()
    for parameter in router.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return router


def feeds(batch: int, images: int, texts: int, length: int, seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    order = np.stack([generator.permutation(length) for _ in range(batch)])
    return {
        "inputs_embeds": generator.normal(size=(batch, length, HIDDEN)).astype(np.float32),
        "image_positions": np.sort(order[:, :images]),
        "text_positions": np.sort(order[:, images : images + texts]),
        "text_mask": np.ones((batch, texts), bool),
    }


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def check(router: Router, runtime: onnxruntime.InferenceSession, given: dict[str, Any]) -> Any:
    found = runtime.run(None, given)
    with torch.no_grad():
        output = router(*(torch.from_numpy(given[name]) for name in ROUTER_INPUTS))
    weights = {name: item.numpy() for name, item in router.state_dict().items()}
    expected = route(weights, router.config, *(given[name] for name in ROUTER_INPUTS))
    for name, ours in zip(FIELDS, found, strict=True):
        for theirs in (getattr(output, name).numpy(), getattr(expected, name)):
            if name == "indices":
                np.testing.assert_array_equal(ours, theirs)
            else:
                np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0)
    np.testing.assert_array_equal(found[4] > 0, expected.gate > 0)
    return dict(zip(FIELDS, found, strict=True))


@pytest.mark.parametrize("density", ["confidence", "entropy"])
@pytest.mark.parametrize("merge", ["add", "concat", "interpolate"])
@pytest.mark.parametrize("direction", ["both", "text-to-image", "image-to-text", "auto"])
def test_graph_equals_torch_and_numpy_at_every_size(
    density: Any, merge: Any, direction: Any
) -> None:
    config = RouterConfig(
        density=density, merge=merge, direction=direction, ratio=0.5, threshold=0.3, rank=8
    )
    router = awake_router(config)
    runtime = session(router_graph(router))
    # The last three have fewer image tokens, fewer text tokens, and fewer of both than k = 4.
    for sizes in ((2, 5, 6, 14), (1, 40, 30, 80), (3, 2, 9, 12), (1, 9, 1, 11), (1, 1, 1, 2)):
        check(router, runtime, feeds(*sizes))


@pytest.mark.parametrize("density", ["confidence", "entropy"])
@pytest.mark.parametrize("direction", ["both", "image-to-text", "auto"])
def test_graph_with_a_learned_gate_equals_torch_and_numpy(density: Any, direction: Any) -> None:
    config = RouterConfig(density=density, direction=direction, learned_gate=True, rank=8)
    router = awake_router(config)
    model = router_graph(router)
    # its edge and slope are weights: a retuned router keeps the structure, and so the engine
    weights = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    assert set(weights) == set(router.state_dict())
    np.testing.assert_allclose(weights["text.gate_edge"], [0.6], rtol=1e-6)
    np.testing.assert_allclose(weights["text.gate_slope"], [math.exp(0.6)], rtol=1e-6)
    runtime = session(model)
    for sizes in ((2, 5, 6, 14), (1, 40, 30, 80), (1, 9, 1, 11)):
        given = feeds(*sizes)
        given["image_positions"][0, 1:2] = -1
        check(router, runtime, given)


@pytest.mark.parametrize("kind", ["channel", "gate"])
@pytest.mark.parametrize("direction", ["both", "text-to-image", "image-to-text"])
def test_pooled_graph_equals_torch_and_numpy_at_every_size(kind: Any, direction: Any) -> None:
    router = pooled_router(RouterConfig(kind=kind, direction=direction))
    model = router_graph(router)
    onnx.checker.check_model(model, full_check=True)
    outputs = {item.name: _axes(item) for item in model.graph.output}
    assert tuple(outputs) == ROUTER_OUTPUTS
    assert outputs["router_indices"] == ["batch", "routed_tokens", 1]
    assert {item.domain for item in model.opset_import} == {""}
    assert {item.name for item in model.graph.initializer} == set(router.state_dict())
    runtime = session(model)
    for sizes in ((2, 5, 6, 14), (1, 40, 30, 80), (3, 2, 9, 12), (1, 9, 1, 11), (1, 1, 1, 2)):
        found = check(router, runtime, feeds(*sizes))
        assert (found["indices"] == -1).all()
        assert not found["margin"].any()


def test_fresh_gate_graph_returns_the_embeddings() -> None:
    given = feeds(2, 5, 6, 14)
    model = router_graph(build_router(RouterConfig(kind="gate"), HIDDEN))
    np.testing.assert_array_equal(session(model).run(None, given)[0], given["inputs_embeds"])


@pytest.mark.parametrize(
    "router",
    [
        awake_router(RouterConfig(rank=8, direction="auto")),
        pooled_router(RouterConfig(kind="channel")),
        pooled_router(RouterConfig(kind="gate")),
    ],
    ids=["token", "channel", "gate"],
)
def test_samples_with_fewer_tokens_or_none_in_one_batch(router: Router) -> None:
    given = feeds(4, 6, 7, 15)
    given["image_positions"][1, 3:] = -1
    given["text_mask"][1, 2:] = False
    given["text_positions"][1, 2:] = 0
    given["text_mask"][2] = False
    given["image_positions"][3] = -1
    found = check(router, session(router_graph(router)), given)
    for sample in (2, 3):
        np.testing.assert_array_equal(
            found["inputs_embeds"][sample], given["inputs_embeds"][sample]
        )
        assert not found["gate"][sample].any()
    assert (found["gate"][:2].sum(axis=1) > 0).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "router",
    [
        awake_router(RouterConfig(rank=8)),
        pooled_router(RouterConfig(kind="channel")),
        pooled_router(RouterConfig(kind="gate")),
    ],
    ids=["token", "channel", "gate"],
)
def test_non_finite_sample_is_passed_through(router: Router, value: float) -> None:
    given = feeds(2, 5, 6, 14)
    given["inputs_embeds"][0, given["text_positions"][0, 1], 4] = value
    found = session(router_graph(router)).run(None, given)
    np.testing.assert_array_equal(found[0][0], given["inputs_embeds"][0])
    assert not np.isnan(found[1]).any()
    assert (found[2][0] == -1).all()
    assert (found[4][1] > 0).any()


def test_repeated_prompt_tokens_choose_the_same_copy_as_torch() -> None:
    router = awake_router(RouterConfig(rank=8, top_k=3))
    given = feeds(2, 33, 47, 90)
    for sample in range(2):
        texts = given["text_positions"][sample]
        copies = given["inputs_embeds"][sample, texts[np.arange(47) % 5]]
        given["inputs_embeds"][sample, texts] = copies
    check(router, session(router_graph(router)), given)


def test_index_agreement_over_many_prompts() -> None:
    router = awake_router(RouterConfig(rank=8))
    runtime = session(router_graph(router))
    same = total = 0
    for seed in range(20):
        given = feeds(2, 64, 48, 120, seed)
        with torch.no_grad():
            output = router(*(torch.from_numpy(given[name]) for name in ROUTER_INPUTS))
        found = runtime.run(None, given)[2]
        same += int((found == output.indices.numpy()).sum())
        total += found.size
    assert same / total >= 0.999


def test_fresh_router_graph_returns_the_embeddings() -> None:
    given = feeds(2, 5, 6, 14)
    found = session(router_graph(TokenRouter(RouterConfig(), HIDDEN))).run(None, given)
    np.testing.assert_array_equal(found[0], given["inputs_embeds"])


def test_graph_interface_and_weights() -> None:
    router = awake_router(RouterConfig(rank=8, top_k=3))
    model = router_graph(router)
    onnx.checker.check_model(model, full_check=True)
    inputs = {item.name: _axes(item) for item in model.graph.input}
    assert inputs == {
        "inputs_embeds": ["batch", "sequence", HIDDEN],
        "image_positions": ["batch", "image_tokens"],
        "text_positions": ["batch", "text_tokens"],
        "text_mask": ["batch", "text_tokens"],
    }
    outputs = {item.name: _axes(item) for item in model.graph.output}
    assert tuple(outputs) == ROUTER_OUTPUTS
    assert outputs["router_indices"] == ["batch", "routed_tokens", 3]
    assert {(item.domain, item.version) for item in model.opset_import} == {("", 21), (DOMAIN, 1)}
    weights = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    assert set(weights) == set(router.state_dict())
    np.testing.assert_array_equal(
        weights["text.up.weight"], router.text.up.weight.detach().numpy().T
    )
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    assert used == {"TokenInformation", "SimilarityTopK", "RouteTokens"}
    assert {item.name for item in model.functions} == used


def _axes(item: onnx.ValueInfoProto) -> list[str | int]:
    return [axis.dim_param or axis.dim_value for axis in item.type.tensor_type.shape.dim]


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"
)
@pytest.mark.parametrize(
    "config",
    [
        RouterConfig(rank=8, threshold=0.3),
        RouterConfig(rank=8, threshold=0.3, density="entropy", merge="concat", direction="auto"),
        RouterConfig(
            rank=8,
            threshold=0.3,
            density="entropy",
            merge="interpolate",
            direction="text-to-image",
        ),
        RouterConfig(rank=8, learned_gate=True, direction="auto"),
        RouterConfig(kind="channel"),
        RouterConfig(kind="channel", direction="image-to-text"),
        RouterConfig(kind="gate"),
        RouterConfig(kind="gate", direction="text-to-image"),
    ],
    ids=lambda config: f"{config.kind}-{config.density}-{config.merge}-{config.direction}",
)
def test_graph_builds_for_ada_in_tensorrt_rtx(config: RouterConfig) -> None:
    import tensorrt_rtx as trt

    router = awake_router(config) if config.kind == "token" else pooled_router(config)
    model = router_graph(router)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network()
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(model.SerializeToString())
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    settings = builder.create_builder_config()
    settings.num_compute_capabilities = 1
    settings.set_compute_capability(trt.ComputeCapability.SM89, 0)
    profile = builder.create_optimization_profile()
    profile.set_shape("inputs_embeds", (1, 2, HIDDEN), (1, 128, HIDDEN), (4, 1024, HIDDEN))
    profile.set_shape("image_positions", (1, 1), (1, 64), (4, 512))
    for name in ("text_positions", "text_mask"):
        profile.set_shape(name, (1, 1), (1, 32), (4, 256))
    settings.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, settings)
    assert engine is not None
    assert engine.nbytes > 0
