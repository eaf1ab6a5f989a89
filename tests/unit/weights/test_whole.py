"""Weights come out of the file, all of them, under the model's names and finite; else the tensors are named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moir_edge.checkpoint import load_checkpoint
from moir_edge.errors import DataError
from moir_edge.router import load_retrofitted

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def sources(make_checkpoint: Callable[..., Path]) -> dict[bool, Path]:
    return {router: make_checkpoint("smolvlm", router=router) for router in (False, True)}


@pytest.fixture
def changed(sources: dict[bool, Path], tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies a checkpoint with other weights."""

    def change(edit: Callable[[Weights], Weights], *, router: bool = False) -> Path:
        folder = Path(shutil.copytree(sources[router], tmp_path / "copy"))
        weights = edit(load_file(folder / "model.safetensors"))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return change


def refused(folder: Path, message: str) -> None:
    """Check both ways in: what every command calls, and what Python users call for a checkpoint with a router."""
    for load in (lambda: load_checkpoint(folder, exported=False), lambda: load_checkpoint(folder)):
        with pytest.raises(DataError, match=message) as caught:
            load()
        assert "\n" not in str(caught.value)
    if "moir_router" in json.loads((folder / "config.json").read_text()):
        with pytest.raises(DataError, match=message):
            load_retrofitted(folder)


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: value for name, value in weights.items() if part not in name}


def under(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {prefix + name: value for name, value in weights.items()}


def test_tied_head_is_not_missing(changed: Callable[..., Path]) -> None:
    folder = changed(lambda weights: weights)
    stored = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in stored
    model = load_checkpoint(folder).model
    assert torch.equal(model.lm_head.weight, stored["model.text_model.embed_tokens.weight"])


@pytest.mark.parametrize("router", [False, True])
def test_projector_is_missing(changed: Callable[..., Path], router: bool) -> None:
    refused(
        changed(without("connector"), router=router),
        r"1 weight is missing and would be random numbers: model\.connector\.modality_projection"
        r"\.proj\.weight; save the whole model with save_pretrained",
    )


def test_router_weights_are_missing(changed: Callable[..., Path]) -> None:
    folder = changed(without("moir_router.image.key"), router=True)
    refused(folder, r"would be random numbers: moir_router\.image\.key")


def test_long_list_is_counted(changed: Callable[..., Path]) -> None:
    folder = changed(without("vision_model"))
    refused(folder, r"\d+ weights are missing .*: model\.vision_model\S+, \S+, \S+ and \d+ more;")


@pytest.mark.parametrize("prefix", ["module.", "base_model.model.", "_orig_mod."])
def test_names_begin_with_a_trainers_prefix(changed: Callable[..., Path], prefix: str) -> None:
    refused(
        changed(under(prefix)),
        f"the names of its tensors begin with '{prefix}', which the model's do not .*save the model itself",
    )


def test_adapters_that_were_not_merged(changed: Callable[..., Path]) -> None:
    def adapted(weights: Weights) -> Weights:
        name = "model.text_model.layers.0.self_attn.q_proj"
        base = {f"{name}.base_layer.weight": weights.pop(f"{name}.weight")}
        return {**weights, **base, f"{name}.lora_A.default.weight": torch.zeros(2, 32)}

    refused(changed(adapted), "adapter weights that were not merged: .*merge_and_unload")


def test_router_without_its_config(changed: Callable[..., Path]) -> None:
    folder = changed(lambda weights: weights, router=True)
    config = json.loads((folder / "config.json").read_text())
    del config["moir_router"]
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, r"holds the weights of a router .* no 'moir_router' entry")


def edited_text_config(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"].update(changes)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_config_describes_fewer_layers(changed: Callable[..., Path]) -> None:
    folder = edited_text_config(changed(lambda weights: weights), num_hidden_layers=1)
    refused(folder, r"left over, as config\.json describes fewer layers .*text_model\.layers\.1")


def test_shape_differs_from_the_config(changed: Callable[..., Path]) -> None:
    def cut(weights: Weights) -> Weights:
        name = "model.connector.modality_projection.proj.weight"
        return {**weights, name: weights[name][:3].clone()}

    refused(
        changed(cut),
        r"modality_projection\.proj\.weight has the shape \(3, 64\) in the file and \(32, 64\) by config",
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "name", ["moir_router.image.key.weight", "model.vision_model.post_layernorm.bias"]
)
def test_weight_that_is_not_a_finite_number(
    changed: Callable[..., Path], name: str, value: float
) -> None:
    def spoil(weights: Weights) -> Weights:
        weights[name].view(-1)[-1] = value
        return weights

    refused(changed(spoil, router=True), f"1 weight tensor.* hold NaN or infinity: {name}")


def test_extra_tensors_that_the_model_has_no_use_for_are_left_out(
    changed: Callable[..., Path],
) -> None:
    folder = changed(lambda weights: {**weights, "extra_head.weight": torch.ones(2)})
    assert load_checkpoint(folder).router is None
