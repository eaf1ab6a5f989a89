"""Stamped graphs of small modules against whole traces: kinds of layers, shared weights, caches, and ways out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn
from transformers import DynamicCache

from moir_edge.bundle import TensorSpec
from moir_edge.export.interfaces import ComponentSpec
from moir_edge.export.parameters import shapes_only
from moir_edge.export.repeated_layers import RepeatedLayers
from moir_edge.export.tracing import trace
from tests.unit.export.graph_text import graph_lines

WIDTH = 4
HIDDEN = TensorSpec(name="inputs_embeds", dtype="float32", shape=("batch", "sequence", WIDTH))
TOTAL = TensorSpec(name="attention_mask", dtype="int64", shape=("batch", "total_sequence"))
RESULT = TensorSpec(name="logits", dtype="float32", shape=("batch", "sequence", WIDTH))
SPEC = ComponentSpec(name="decoder", inputs=(HIDDEN,), outputs=(RESULT,))
WARNING = "every layer is traced"


class Block(nn.Module):
    """A residual product; `scale` is a setting, `layer_idx` only counts."""

    def __init__(self, index: int, scale: float = 2.0) -> None:
        super().__init__()
        self.layer_idx, self.scale = index, scale
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, hidden: torch.Tensor, shift: torch.Tensor | None = None) -> torch.Tensor:
        product: torch.Tensor = self.linear(self.norm(hidden)) * self.scale
        return hidden + (product if shift is None else product + shift)


class Stack(nn.Module):
    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            inputs_embeds = layer(inputs_embeds)
        return inputs_embeds


def stamped_and_whole(module: nn.Module, spec: ComponentSpec = SPEC) -> tuple[ir.Model, ir.Model]:
    module.eval()
    return trace(module, spec), trace(module, spec, whole=True)


def require_equal(module: nn.Module, spec: ComponentSpec = SPEC) -> ir.Model:
    stamped, whole = stamped_and_whole(module, spec)
    assert graph_lines(stamped) == graph_lines(whole)
    return stamped


def layers_in_trace(module: nn.Module, *inputs: torch.Tensor) -> list[str]:
    """Return which layers leave no mark when the module is run."""
    layers = RepeatedLayers(module)
    while True:
        try:
            with torch.no_grad(), layers.replaced():
                torch.export.export(module, inputs)
            break
        except Exception:
            assert layers.want_missing()
    return [call.path for number, call in enumerate(layers.calls) if call.traced == number]


def test_layers_of_one_kind_are_traced_once_and_keep_their_weights() -> None:
    module = Stack([Block(index) for index in range(5)])
    stamped = require_equal(module)
    assert layers_in_trace(module, torch.ones(1, 2, WIDTH)) == ["layers.0"]
    for index, layer in enumerate(module.layers):
        found = stamped.graph.initializers[f"layers.{index}.linear"].const_value.numpy()
        np.testing.assert_array_equal(found, layer.linear.weight.detach().numpy().T)


def test_the_numbers_are_those_of_torch() -> None:
    module = Stack([Block(index) for index in range(3)]).eval()
    session = ort.InferenceSession(ir.to_proto(trace(module, SPEC)).SerializeToString())
    hidden = np.random.default_rng(0).normal(size=(2, 3, WIDTH)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(hidden)).numpy()
    # float32 sums in another order; the outputs are of size 10.
    np.testing.assert_allclose(session.run(None, {"inputs_embeds": hidden})[0], expected, atol=1e-5)


def test_a_setting_makes_a_kind_of_its_own() -> None:
    module = Stack([Block(index, 3.0 if index in (1, 4) else 2.0) for index in range(6)])
    require_equal(module)
    assert layers_in_trace(module, torch.ones(1, 2, WIDTH)) == ["layers.0", "layers.1"]


def test_a_further_input_makes_a_kind_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    class Shifted(Stack):
        def forward(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
            shift = inputs_embeds.mean()
            for index, layer in enumerate(self.layers):
                inputs_embeds = layer(inputs_embeds, shift if index in (1, 3) else None)
            return inputs_embeds

    module = Shifted([Block(index) for index in range(5)])
    require_equal(module)
    assert layers_in_trace(module, torch.ones(1, 2, WIDTH)) == ["layers.0", "layers.1"]
    assert WARNING not in caplog.text


def test_layers_whose_output_nobody_reads_are_left_out() -> None:
    class Chosen(Stack):
        def forward(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
            states = [inputs_embeds]
            for layer in self.layers:
                states.append(layer(states[-1]))
            return states[-3] + states[2]

    stamped = require_equal(Chosen([Block(index) for index in range(6)]))
    assert "layers.3.linear" in stamped.graph.initializers
    assert "layers.4.linear" not in stamped.graph.initializers


def test_a_weight_that_layers_share_is_one_initializer() -> None:
    layers = [Block(index) for index in range(4)]
    for layer in layers[1:]:
        layer.linear.weight = layers[0].linear.weight
    stamped = require_equal(Stack(layers))
    matrices = [value for value in stamped.graph.initializers.values() if len(value.shape) == 2]
    assert len(matrices) == 1


def test_equal_values_of_two_layers_stay_two_weights() -> None:
    stamped = require_equal(Stack([Block(index) for index in range(3)]))  # the norms are all ones
    assert {f"layers.{index}.norm" for index in range(3)} <= set(stamped.graph.initializers)


def test_lists_inside_of_repeated_layers_go_with_them() -> None:
    module = Stack([Stack([Block(index) for index in range(2)]) for _ in range(3)])
    require_equal(module)
    assert layers_in_trace(module, torch.ones(1, 2, WIDTH)) == ["layers.0"]


def test_a_list_of_stages_is_looked_into() -> None:
    stages = [Stack([Block(index, scale) for index in range(2)]) for scale in (2.0, 3.0)]
    module = Stack(stages)
    require_equal(module)
    traced = layers_in_trace(module, torch.ones(1, 2, WIDTH))
    assert traced == ["layers.0.layers.0", "layers.1.layers.0"]


class CachedBlock(Block):
    """Writes to the layer of a cache that `owner` says; its own by default."""

    def __init__(self, index: int, owner: int | None = None) -> None:
        super().__init__(index)
        self.owner = owner

    def forward(self, hidden: torch.Tensor, cache: Any, mask: torch.Tensor | None) -> Any:
        index = self.layer_idx if self.owner is None else self.owner
        keys, values = cache.update(hidden[:, None], self.linear(hidden)[:, None], index)
        return hidden + keys.mean(2) + values.mean(2)


class CachedStack(Stack):
    masked = True

    def forward(  # type: ignore[override]
        self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor, past: list[torch.Tensor]
    ) -> Any:
        cache: Any = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        for layer in self.layers:
            inputs_embeds = layer(inputs_embeds, cache, attention_mask if self.masked else None)
        present = [tensor for one in cache.layers for tensor in (one.keys, one.values)]
        return (inputs_embeds + attention_mask.sum(), *present)


def cached_spec(layers: int) -> ComponentSpec:
    def cache(name: str, axis: str) -> list[TensorSpec]:
        shape = ("batch", 1, axis, WIDTH)
        return [
            TensorSpec(name=f"{name}.{index}", dtype="float32", shape=shape)
            for index in range(2 * layers)
        ]

    return ComponentSpec(
        name="decoder",
        inputs=(HIDDEN, TOTAL, *cache("past", "past_sequence")),
        outputs=(RESULT, *cache("present", "total_sequence")),
        grouped=2,
    )


def test_each_layer_has_its_own_keys_and_values(caplog: pytest.LogCaptureFixture) -> None:
    require_equal(CachedStack([CachedBlock(index) for index in range(3)]), cached_spec(3))
    assert WARNING not in caplog.text


def test_keys_are_as_long_as_no_input_of_a_layer(caplog: pytest.LogCaptureFixture) -> None:
    module = CachedStack([CachedBlock(index) for index in range(3)])
    module.masked = False
    require_equal(module, cached_spec(3))
    assert WARNING not in caplog.text


def test_only_traced_layers_bring_their_keys_and_values_into_the_trace() -> None:
    module = CachedStack([CachedBlock(index) for index in range(6)]).eval()
    lengths: list[int] = []
    module.register_forward_pre_hook(lambda _, given: lengths.append(len(given[2])))
    trace(module, cached_spec(6))
    assert set(lengths) == {2}


def test_layers_that_differ_in_turn_keep_their_own_keys_and_values(
    caplog: pytest.LogCaptureFixture,
) -> None:
    layers = [CachedBlock(index) for index in range(7)]
    for layer in layers[2::3]:
        layer.scale = 3.0
    require_equal(CachedStack(layers), cached_spec(7))
    assert WARNING not in caplog.text


def test_a_layer_that_reads_keys_that_are_not_traced_makes_the_whole_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Reader(Block):
        def forward(self, hidden: torch.Tensor, cache: Any, mask: Any) -> torch.Tensor:
            return super().forward(hidden) + cache.layers[1].keys.mean((1, 2))[:, None] + mask.sum()

    layers = [*(CachedBlock(index) for index in range(3)), Reader(3), Reader(4)]
    require_equal(CachedStack(layers), cached_spec(5))
    assert "the cache of one layer is read by another" in caplog.text


def test_outputs_of_an_unknown_length_are_traced_with_the_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Long(Block):
        def forward(self, hidden: torch.Tensor, shift: Any = None) -> Any:
            return super().forward(hidden, shift), torch.cat([hidden, hidden], 1)

    class LongStack(Stack):
        def forward(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                inputs_embeds, long = layer(inputs_embeds)
                inputs_embeds = inputs_embeds + long.mean(1, keepdim=True)
            return inputs_embeds

    require_equal(LongStack([Long(index) for index in range(3)]))
    assert "an output has the axis or type" in caplog.text


def test_a_layer_that_writes_to_the_cache_of_another_is_traced_with_the_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    layers = [CachedBlock(index, owner=1) for index in range(3)]
    require_equal(CachedStack(layers), cached_spec(3))
    assert "decoder: every layer is traced, which takes longer: " in caplog.text
    assert "layers.0 writes to the cache of another layer" in caplog.text


def test_a_layer_that_returns_more_than_tensors_is_traced_with_the_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Odd(Block):
        def forward(self, hidden: torch.Tensor, shift: Any = None) -> Any:
            return super().forward(hidden, shift), object()

    class OddStack(Stack):
        def forward(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                inputs_embeds, _ = layer(inputs_embeds)
            return inputs_embeds

    require_equal(OddStack([Odd(index) for index in range(3)]))
    assert "layers.0 returns more than tensors" in caplog.text


def test_a_module_without_repetition_is_traced_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    module = Stack([Block(0), nn.Linear(WIDTH, WIDTH)])
    assert not RepeatedLayers(module)
    require_equal(module)
    assert WARNING not in caplog.text


def test_an_error_of_the_module_itself_reaches_the_caller() -> None:
    class Broken(Block):
        def forward(self, hidden: torch.Tensor, shift: Any = None) -> Any:
            raise RuntimeError("of the module")

    with pytest.raises(RuntimeError, match="of the module"):
        trace(Stack([Broken(index) for index in range(2)]).eval(), SPEC)


def test_no_weight_is_read_while_a_module_is_traced() -> None:
    module = Stack([Block(index) for index in range(3)])
    with shapes_only(module):
        assert all(one.dtype == torch.float32 for one in module.parameters())
    blank = {name: torch.empty_like(one, device="meta") for name, one in module.named_parameters()}
    names: list[str] = []

    def weights(name: str) -> ir.TensorProtocol:
        names.append(name)
        return ir.Tensor(np.zeros(blank[name].shape, np.float32), name=name)

    on_no_device = Stack([Block(index) for index in range(3)]).to("meta")
    model = trace(on_no_device.eval(), SPEC, weights=weights)
    assert sorted(names) == sorted(blank)
    assert [node.op_type for node in model.graph] == [
        node.op_type for node in trace(module.eval(), SPEC).graph
    ]


def test_the_module_is_as_it_was() -> None:
    module = Stack([Block(index) for index in range(3)])
    before = dict(module.named_parameters())
    trace(module.eval(), SPEC)
    after = dict(module.named_parameters())
    assert list(before) == list(after)
    assert all(before[name] is after[name] for name in before)
    assert all("forward" not in vars(layer) for layer in module.layers)
    assert not module._forward_pre_hooks
