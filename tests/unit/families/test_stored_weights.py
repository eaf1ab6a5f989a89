"""A bfloat16 checkpoint whose weights stay in their file computes what its float32 copy in memory computes, in every family."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from moir_edge.checkpoint import Checkpoint, load_checkpoint
from moir_edge.export import TracedModel
from moir_edge.export.components import component_module
from moir_edge.export.reference import TorchReference, torch_reference
from moir_edge.export.samples import parity_samples
from moir_edge.export.weights import stored_weights
from moir_edge.export.wide_layers import float32_layers

pytestmark = pytest.mark.slow  # two runs of a model for each family

WEIGHTS = "model.safetensors"


@pytest.fixture
def pair(traced: TracedModel, tmp_path: Path) -> tuple[Checkpoint, Checkpoint]:
    """A family's checkpoint in bfloat16, its router in float32: left in its file, and read into float32."""
    folder = tmp_path / "narrow"
    shutil.copytree(traced.checkpoint.folder, folder)
    tensors = {
        name: tensor if name.startswith("moir_router.") else tensor.to(torch.bfloat16)
        for name, tensor in load_file(folder / WEIGHTS).items()
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return load_checkpoint(folder, mapped=True), load_checkpoint(folder)


def answers(checkpoint: Checkpoint, traced: TracedModel) -> TorchReference:
    samples = parity_samples(checkpoint, traced.facts)
    return torch_reference(checkpoint, traced.facts, samples)


def test_torch_answers_alike(pair: tuple[Checkpoint, Checkpoint], traced: TracedModel) -> None:
    narrow, wide = pair
    stored = dict(narrow.model.named_parameters())
    before = {name: (one.dtype, one.data_ptr()) for name, one in stored.items()}
    assert torch.bfloat16 in {dtype for dtype, _ in before.values()}
    for got, expected in zip(
        answers(narrow, traced).samples, answers(wide, traced).samples, strict=True
    ):
        np.testing.assert_array_equal(got.embeds, expected.embeds)
        np.testing.assert_array_equal(got.logits, expected.logits)
        assert (got.features is None) == (expected.features is None)
        if got.features is not None and expected.features is not None:
            np.testing.assert_array_equal(got.features, expected.features)
        if got.routed is not None and expected.routed is not None:
            np.testing.assert_array_equal(got.routed.scores, expected.routed.scores)
    assert {name: (one.dtype, one.data_ptr()) for name, one in stored.items()} == before
    assert hooks(narrow) == hooks(wide)


def hooks(checkpoint: Checkpoint) -> int:
    """Return how many hooks there are; the router has some of its own."""
    modules = list(checkpoint.model.modules())
    return sum(len(one._forward_pre_hooks) + len(one._forward_hooks) for one in modules)


def test_modules_to_trace_and_their_weights_are_alike(
    pair: tuple[Checkpoint, Checkpoint], traced: TracedModel
) -> None:
    narrow, _ = pair
    for name in traced.checkpoint.architecture.components:
        modules = [component_module(checkpoint, name) for checkpoint in pair]
        for got, expected in zip(*(module.named_buffers() for module in modules), strict=True):
            assert got[0] == expected[0]
            torch.testing.assert_close(got[1], expected[1], rtol=0, atol=0)
        tensors = stored_weights(modules[0], narrow.files), stored_weights(modules[1])
        for parameter, _ in modules[1].named_parameters():
            got_bytes, expected_bytes = (one(parameter).tobytes() for one in tensors)
            assert got_bytes == expected_bytes
    with float32_layers(narrow.model, narrow.files):
        assert {one.dtype for one in narrow.model.parameters()} == {torch.float32}
