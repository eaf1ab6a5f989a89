"""Layers that are float32 while they run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from moir_edge.export import wide_layers
from moir_edge.export.wide_layers import float32_layers
from moir_edge.weights.mapped import MappedFiles


class Model(nn.Module):
    """A table, two layers, a norm outside of them, and a head that is the table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.table.weight

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.table(ids)
        for layer in self.layers:
            hidden = layer(hidden)
        logits: torch.Tensor = self.head(self.norm(hidden))
        return logits


@pytest.fixture
def narrow() -> Any:
    torch.manual_seed(0)
    return Model().to(torch.bfloat16)


IDS = torch.tensor([[1, 2, 3]])


@pytest.fixture(params=[0, 1 << 29], ids=["streamed", "kept"])
def kept_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(wide_layers, "_LEAST_KEPT_BYTES", request.param)
    monkeypatch.setattr(wide_layers, "_KEPT_SHARE", 0.0)
    return int(request.param)


@torch.no_grad()
def test_answers_are_those_of_the_float32_model(narrow: Any, kept_bytes: int) -> None:
    del kept_bytes
    wide = Model()
    wide.load_state_dict({name: one.float() for name, one in narrow.state_dict().items()})
    wide.head.weight = wide.table.weight
    with float32_layers(narrow, MappedFiles()):
        for _ in range(2):
            torch.testing.assert_close(narrow(IDS), wide(IDS), rtol=0, atol=0)


@torch.no_grad()
def test_streamed_layers_hold_values_in_their_call_only(narrow: Any, kept_bytes: int) -> None:
    layer = narrow.layers[0][0]
    stored = layer.weight.data.float()
    seen = []
    layer.register_forward_hook(lambda *_: seen.append(layer.weight.data.clone()))
    with float32_layers(narrow, MappedFiles()):
        blank = layer.weight.data_ptr()
        narrow(IDS)
        torch.testing.assert_close(seen[0], stored, rtol=0, atol=0)
        assert (layer.weight.data_ptr() == blank) == (kept_bytes == 0)


@torch.no_grad()
def test_weights_are_as_before_whatever_happens(narrow: Any, kept_bytes: int) -> None:
    del kept_bytes
    before = {name: (one.dtype, one.data_ptr()) for name, one in narrow.named_parameters()}
    with pytest.raises(IndexError), float32_layers(narrow, MappedFiles()):
        narrow(torch.tensor([[99]]))
    assert {name: (one.dtype, one.data_ptr()) for name, one in narrow.named_parameters()} == before
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in narrow.modules())


def test_float32_model_in_memory_is_left_alone() -> None:
    model = Model()
    before = [one.data_ptr() for one in model.parameters()]
    with float32_layers(model, MappedFiles()):
        assert [one.data_ptr() for one in model.parameters()] == before
