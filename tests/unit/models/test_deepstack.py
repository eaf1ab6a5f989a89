"""Decoders with DeepStack: the graph's dense sum against the model's own, and what a config is refused for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from moir_edge.export.attention import export_attention
from moir_edge.models import get_architecture
from moir_edge.router import RouterConfig, last_routing, retrofit, router_disabled
from tests.unit.families.tiny import BUILDERS, Tiny

FAMILIES = ("granite_docling", "qwen3_vl")


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    torch.manual_seed(0)
    found = BUILDERS[request.param]()
    with torch.no_grad():
        for parameter in found.model.parameters():
            parameter += 0.15 * torch.randn(parameter.shape)
    found.model.eval()
    return found


@torch.no_grad()
def test_a_sum_with_zeros_is_what_the_model_writes_to_a_mask(tiny: Tiny) -> None:
    architecture = get_architecture(tiny.model.config.model_type)
    language_model = tiny.model.get_submodule(architecture.language_model)
    text = tiny.model.config.get_text_config()
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    images = torch.tensor([[0, 0, 0, 1, 1, 0], [0, 1, 1, 1, 0, 0]]).bool()
    embeds = torch.randn(2, 6, text.hidden_size)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    if architecture.position_axes == 3:
        positions = positions.expand(3, -1, -1)
    dense = torch.zeros(2, 6, architecture.levels(tiny.model.config), text.hidden_size)  # type: ignore[attr-defined]
    dense[images] = torch.randn(5, *dense.shape[2:])
    past = [torch.zeros(2, text.num_key_value_heads, 0, _head(text))] * (2 * text.num_hidden_layers)

    hidden = language_model(
        inputs_embeds=embeds,
        attention_mask=mask,
        position_ids=positions,
        visual_pos_masks=images,
        deepstack_visual_embeds=list(dense[images].unbind(1)),
    ).last_hidden_state
    expected = architecture.after_head(tiny.model.lm_head(hidden[:, -1:]), tiny.model.config)
    with export_attention(tiny.model):
        graph = architecture.decoder_graph(tiny.model)
        found = graph(embeds, mask, positions, dense, past)[0]
        without = graph(embeds, mask, positions, torch.zeros_like(dense), past)[0]

    # float32 sums in another order; the logits are of size 1.
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - without).abs().max() > 1e-2
    assert "_deepstack_process" not in vars(language_model)


@torch.no_grad()
def test_a_router_leaves_the_features_alone(tiny: Tiny) -> None:
    model, seen = tiny.model, []
    retrofit(model, RouterConfig(rank=4, top_k=2), tokenizer=tiny.tokenizer)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "moir_router" in name:
                parameter += 0.3 * torch.randn(parameter.shape)
    language_model = model.get_submodule(get_architecture(model.config.model_type).language_model)
    handle = language_model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given), with_kwargs=True
    )
    inputs = _inputs(tiny)
    try:
        routed = model(**inputs).logits
        assert last_routing(model) is not None
        with router_disabled(model):
            plain = model(**inputs).logits
    finally:
        handle.remove()
    on, off = seen
    assert not torch.equal(on["inputs_embeds"], off["inputs_embeds"])
    assert not torch.equal(routed, plain)
    for got, expected in zip(
        on["deepstack_visual_embeds"], off["deepstack_visual_embeds"], strict=True
    ):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("taps", [[], [0, 0], [0, 9], [0, 1, 2]])
def test_taps_that_have_no_layers_are_refused(tiny: Tiny, taps: list[int]) -> None:
    config = tiny.model.config
    before = config.vision_config.deepstack_visual_indexes
    config.vision_config.deepstack_visual_indexes = taps
    try:
        problem = get_architecture(config.model_type).config_problem(config)
    finally:
        config.vision_config.deepstack_visual_indexes = before
    assert problem == (
        f"vision_config has deepstack_visual_indexes {taps}, expected 1 to 2 different blocks of the tower's 3, counted "
        "from 0, one for each of as many layers of the language model; correct config.json"
    )
    assert get_architecture(config.model_type).config_problem(config) is None


def test_the_fine_path_is_refused() -> None:
    architecture = get_architecture("granite_docling")
    record: dict[str, Any] = {"image_processor": {"fine_route": True}}
    assert architecture.processor_problem(record, None) == (
        "its image processor has fine_route true, and export takes the coarse path of the connector; set fine_route to false"
    )
    record["image_processor"]["fine_route"] = False
    assert architecture.processor_problem(record, None) is None


def _head(text: Any) -> int:
    return getattr(text, "head_dim", None) or int(text.hidden_size // text.num_attention_heads)


def _inputs(tiny: Tiny) -> dict[str, torch.Tensor]:
    """Return one prompt with an image of four tokens."""
    ids = torch.tensor([[10, 11, 3, 3, 3, 3, 12, 13, 14]])
    if tiny.model.config.model_type == "qwen3_vl":
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": torch.randn(16, 96),
            "image_grid_thw": torch.tensor([[1, 4, 4]]),
            "mm_token_type_ids": (ids == 3).long(),
        }
    pixels = torch.randn(1, 1, 3, 32, 32)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels,
        "pixel_attention_mask": torch.ones(1, 1, dtype=torch.bool),
    }
