"""Traced graphs of both classes: interface, names, and the same numbers as torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from moir_edge.export.cleanup import AXIS_NAMES, check_graph

MODEL_TYPES = ("llava", "smolvlm")


def session(model: ir.Model) -> ort.InferenceSession:
    return ort.InferenceSession(ir.to_proto(model).SerializeToString())


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_components_and_their_order(model_type: str, traced_models: Callable[[str], Any]) -> None:
    router = ["router"] if model_type == "llava" else []
    assert list(traced_models(model_type).graphs) == ["vision", "embedding", "decoder", *router]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_fixed_axes_are_numbers_and_dynamic_ones_are_named(
    model_type: str, traced_models: Callable[[str], Any]
) -> None:
    for name, model in traced_models(model_type).graphs.items():
        check_graph(model)
        for value in (*model.graph.inputs, *model.graph.outputs):
            for axis in value.shape:
                assert isinstance(axis, int) or axis.value in AXIS_NAMES, (name, value)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_matrix_weights_feed_matmul_directly(
    model_type: str, traced_models: Callable[[str], Any]
) -> None:
    graphs = traced_models(model_type).graphs
    for model in graphs.values():
        for node in model.graph:
            if node.op_type == "Transpose":
                assert not node.inputs[0].is_initializer()
    weights = graphs["decoder"].graph.initializers
    assert weights["layers.1.down_proj"].shape == (64, 32)  # (K, N): intermediate, hidden


def test_tied_head_reads_the_table_of_the_embedding(traced_models: Callable[[str], Any]) -> None:
    graphs = traced_models("smolvlm").graphs
    (head,) = (node for node in graphs["decoder"].graph if node.op_type == "Gemm")
    table = graphs["embedding"].graph.initializers["embed_tokens.weight"]
    assert head.attributes.get_int("transB", 0) == 1
    np.testing.assert_array_equal(head.inputs[1].const_value.numpy(), table.const_value.numpy())


def test_untied_head_is_a_matmul(traced_models: Callable[[str], Any]) -> None:
    decoder = traced_models("llava").graphs["decoder"].graph
    assert not [node for node in decoder if node.op_type == "Gemm"]
    assert decoder.initializers["lm_head.weight"].shape[0] == 32  # (hidden, vocab)


def test_one_decoder_serves_prefill_decode_and_any_batch(
    traced_models: Callable[[str], Any],
) -> None:
    run = session(traced_models("smolvlm").graphs["decoder"])
    random = np.random.default_rng(0)
    embeds = random.normal(size=(1, 6, 32)).astype(np.float32)

    whole = decode(run, embeds, None)
    first = decode(run, embeds[:, :5], None)
    then = decode(run, embeds[:, 5:], first)

    # float32 sums in another order; the logits are of size 1.
    np.testing.assert_allclose(then["logits"], whole["logits"], atol=1e-5)
    assert whole["logits"].shape == (1, 1, 262)
    assert then["present.1.key"].shape == (1, 2, 6, 8)


def test_left_padding_does_not_reach_the_logits(traced_models: Callable[[str], Any]) -> None:
    run = session(traced_models("smolvlm").graphs["decoder"])
    embeds = np.random.default_rng(1).normal(size=(1, 4, 32)).astype(np.float32)
    padded = np.concatenate([np.full((1, 3, 32), 7, np.float32), embeds], axis=1)
    mask = np.array([[0, 0, 0, 1, 1, 1, 1]], np.int64)

    alone, behind = decode(run, embeds, None), decode(run, padded, None, mask)

    # float32 sums in another order; the logits are of size 1.
    np.testing.assert_allclose(behind["logits"], alone["logits"], atol=1e-5)
    assert all(np.isfinite(value).all() for value in behind.values())


def test_a_row_of_padding_alone_gives_no_nan(traced_models: Callable[[str], Any]) -> None:
    run = session(traced_models("smolvlm").graphs["decoder"])
    outputs = decode(run, np.ones((1, 3, 32), np.float32), None, np.zeros((1, 3), np.int64))
    assert all(np.isfinite(value).all() for value in outputs.values())


def decode(
    run: ort.InferenceSession,
    embeds: np.ndarray[Any, Any],
    before: dict[str, Any] | None,
    mask: np.ndarray[Any, Any] | None = None,
) -> dict[str, Any]:
    """Run one step after `before`, or from an empty cache."""
    past = 0 if before is None else before["present.0.key"].shape[2]
    if mask is None:
        mask = np.ones((1, past + embeds.shape[1]), np.int64)
    positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -embeds.shape[1] :]
    feed = {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions}
    for layer in range(2):
        for part in ("key", "value"):
            empty = np.zeros((1, 2, 0, 8), np.float32)
            old = empty if before is None else before[f"present.{layer}.{part}"]
            feed[f"past_key_values.{layer}.{part}"] = old
    names = [output.name for output in run.get_outputs()]
    return dict(zip(names, run.run(names, feed), strict=True))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_vision_is_the_models_own_features(
    model_type: str, traced_models: Callable[[str], Any]
) -> None:
    import torch

    traced = traced_models(model_type)
    size, tokens = traced.facts.image_size, traced.facts.tokens_per_tile
    tiles = np.random.default_rng(2).uniform(-1, 1, (3, 3, size, size)).astype(np.float32)
    (features,) = session(traced.graphs["vision"]).run(None, {"pixel_values": tiles})

    checkpoint = traced.checkpoint
    pixels = checkpoint.architecture.model_pixels(torch.from_numpy(tiles), 3)
    with torch.no_grad():
        expected = checkpoint.model.get_image_features(pixel_values=pixels).pooler_output
    expected = torch.cat(list(expected)).reshape(3, tokens, 32).numpy()

    # float32 sums in another order; the features are of size 1.
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_tracing_leaves_the_model_as_it_was(traced_models: Callable[[str], Any]) -> None:
    model = traced_models("smolvlm").checkpoint.model
    assert model.config._attn_implementation == "sdpa"
    assert model.model.text_model.config._attn_implementation == "sdpa"


def test_every_parameter_is_stored_under_its_place(
    traced_models: Callable[[str], Any], tmp_path: Path
) -> None:
    names = set(traced_models("smolvlm").graphs["decoder"].graph.initializers)
    for layer in (0, 1):
        for module in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
            assert f"layers.{layer}.{module}" in names
