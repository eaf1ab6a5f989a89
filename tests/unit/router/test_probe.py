"""Which classes `retrofit` accepts: those that call the router once in forward and once in generate()."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.shrinking import build_tiny
from moir_edge.errors import UnsupportedError
from moir_edge.router import (
    RouterConfig,
    last_routing,
    load_retrofitted,
    probe_router,
    remove_router,
    retrofit,
    router_disabled,
)

CONFIG = RouterConfig(rank=4)
REFUSED = {
    "blip-2": r"generate\(\) of Blip2ForConditionalGeneration .*'blip-2'\) never calls the router",
    "instructblip": r"generate\(\) of InstructBlipForConditionalGeneration .* never calls the router",
    "florence2": r"forward of Florence2ForConditionalGeneration .* never calls the router",
    "mllama": r"MllamaForConditionalGeneration calls its language model without inputs_embeds.*found by forward",
    "t5gemma2": r"T5Gemma2ForConditionalGeneration calls its language model without inputs_embeds",
}
# One of each way to lay out positions, caches and embeddings; `benchmarks.families` tries all.
ACCEPTED = ["idefics3", "qwen3_vl", "gemma3", "qwen3_5", "lfm2_vl", "llava_onevision", "paligemma"]


def state(model: Any) -> dict[str, Any]:
    """Return all that a refusal must leave as it was: hooks, submodules, attributes, modes, config, weights."""
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_forward_hooks_always_called")
    return {
        "modules": list(dict(model.named_modules())),
        "hooks": [len(getattr(item, name)) for item in model.modules() for name in hooks],
        "attributes": [
            sorted(name for name in vars(item) if not name.startswith("_"))
            for item in model.modules()
        ],
        "training": [item.training for item in model.modules()],
        "config": copy.deepcopy(model.config.to_dict()),
        "float32": set(model._keep_in_fp32_modules_strict or ()),
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    weights = one.pop("weights"), other.pop("weights")
    return (
        one == other
        and weights[0].keys() == weights[1].keys()
        and all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    )


@pytest.mark.parametrize("model_type", REFUSED)
def test_a_class_past_the_router_is_refused_and_left_as_it_was(model_type: str) -> None:
    model = build_tiny(model_type)
    model.train()
    before = state(model)
    torch.manual_seed(4)
    retrofit(build_tiny(model_type), CONFIG, probe=False)
    unprobed = torch.random.get_rng_state()
    torch.manual_seed(4)
    build_tiny(model_type)
    with pytest.raises(UnsupportedError, match=REFUSED[model_type]) as refusal:
        retrofit(model, CONFIG)
    assert "\n" not in str(refusal.value)
    assert same(state(model), before)
    # The router's own weights are drawn, as without the probe, and nothing more.
    assert torch.equal(torch.random.get_rng_state(), unprobed)


@pytest.mark.parametrize("model_type", ACCEPTED)
def test_a_class_that_calls_the_router_is_accepted(model_type: str) -> None:
    model = build_tiny(model_type)
    before = state(model)
    router = retrofit(model, CONFIG)
    assert last_routing(model) is None
    calls: list[int] = []
    router.register_forward_hook(lambda *_: calls.append(1))
    probe_router(model)
    assert len(calls) == 2
    remove_router(model)
    assert same(state(model), before)


def test_a_probe_changes_no_output_and_no_random_number(vlm: Any) -> None:
    twin = copy.deepcopy(vlm.model)
    torch.manual_seed(4)
    retrofit(twin, CONFIG, probe=False)
    unprobed = torch.random.get_rng_state()
    torch.manual_seed(4)
    retrofit(vlm.model, CONFIG)
    assert torch.equal(torch.random.get_rng_state(), unprobed)
    with torch.no_grad():
        assert torch.equal(vlm.model(**vlm.inputs()).logits, twin(**vlm.inputs()).logits)


@pytest.mark.parametrize("half", ["forward", "generate"])
def test_a_router_called_twice_is_refused(vlm: Any, half: str) -> None:
    """A language model that is run twice for one prompt would be routed twice."""
    retrofit(vlm.model, CONFIG)
    hooks = vlm.model._moir_hooks
    name = f"{type(vlm.model).__name__}"
    original = vlm.model.forward if half == "forward" else vlm.model.generate

    def twice(*args: Any, **kwargs: Any) -> Any:
        if half == "generate":
            original(*args, **kwargs)
            return original(*args, **kwargs)
        pending = hooks._pending
        original(*args, **kwargs)
        hooks._pending = pending
        return original(*args, **kwargs)

    setattr(vlm.model, half, twice)
    with pytest.raises(
        UnsupportedError, match=rf"{half}(\(\))? of {name} .* calls the router 2 times"
    ):
        probe_router(vlm.model)


def test_real_inputs_must_hold_their_features_when_the_router_is_called(vlm: Any) -> None:
    retrofit(vlm.model, CONFIG)
    probe_router(vlm.model, vlm.inputs())
    embedding = vlm.model.get_input_embeddings()
    image = vlm.inputs()["input_ids"] == vlm.image_token_id

    def put_placeholders_back(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
        embeds = kwargs["inputs_embeds"].clone()
        if embeds.shape[:2] == image.shape:
            embeds[image] = embedding(vlm.inputs()["input_ids"][image])
        return args, {**kwargs, "inputs_embeds": embeds}

    hooks = vlm.model._moir_hooks
    hooks.detach()
    vlm.model.get_decoder().register_forward_pre_hook(put_placeholders_back, with_kwargs=True)
    hooks.attach()
    with pytest.raises(UnsupportedError, match="merges image features after the router"):
        probe_router(vlm.model, vlm.inputs())


def test_a_model_that_fails_is_named_with_its_reason(vlm: Any) -> None:
    class Broken(torch.nn.Module):
        def forward(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("the kernel is missing\nsecond line")

    vlm.model.lm_head = Broken()
    with pytest.raises(
        UnsupportedError,
        match=r"forward of .* fails .*RuntimeError: the kernel is missing\), .*probe=False",
    ):
        retrofit(vlm.model, CONFIG)
    retrofit(vlm.model, CONFIG, probe=False)
    with router_disabled(vlm.model):
        assert last_routing(vlm.model) is None


def test_a_saved_router_that_never_runs_is_refused_on_loading(tmp_path: Path) -> None:
    """A checkpoint from before the probe: tune, diagnose and compare load it through the same function."""
    model = build_tiny("blip-2")
    retrofit(model, CONFIG, probe=False)
    model.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedError, match=REFUSED["blip-2"]):
        load_retrofitted(tmp_path)
    assert hasattr(load_retrofitted(tmp_path, probe=False), "moir_router")


def test_the_checkpoints_generation_config_is_left_out_of_the_probe(vlm: Any) -> None:
    model = vlm.model
    # Stop strings want a tokenizer, and one greedy answer cannot be two.
    model.generation_config.stop_strings = ["x"]
    model.generation_config.num_return_sequences = 2
    own = model.generation_config
    retrofit(model, CONFIG)
    assert model.generation_config is own
