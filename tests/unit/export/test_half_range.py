"""A float16 export of a model whose activations pass 65,504 is refused; the CPU alone would not show it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from moir_edge.bundle import open_bundle
from moir_edge.checkpoint import load_checkpoint
from moir_edge.errors import UnsupportedError
from moir_edge.export import assemble
from moir_edge.export.components import trace_components

OTHER = {"decoder": "vision", "vision": "decoder"}
LARGE = {
    "decoder": "model.text_model.layers.0.post_attention_layernorm",
    "vision": "model.vision_model.encoder.layers.0.layer_norm2",
}


@pytest.fixture(scope="module")
def large(make_checkpoint: Callable[..., Path]) -> Any:
    """A traced SmolVLM in which one scale of each component, between two float32 layers, is a million times larger."""
    checkpoint = load_checkpoint(make_checkpoint("smolvlm"))
    with torch.no_grad():
        for place in LARGE.values():
            checkpoint.model.get_submodule(place).weight *= 1e6
    return trace_components(checkpoint)


@pytest.mark.parametrize(
    ("component", "layer"),
    [
        ("decoder", r"input of model\.text_model\.layers\.0\.mlp\.(gate|up)_proj"),
        ("vision", r"input of model\.vision_model\.encoder\.layers\.0\.mlp\.fc1"),
    ],
)
def test_activations_past_float16_are_refused_and_fp32_is_written(
    large: Any, tmp_path: Path, component: str, layer: str
) -> None:
    other = {OTHER[component]: "fp32"}
    export = partial(assemble, large, target="rtx-40", precision="fp16", engines=False)
    with pytest.raises(UnsupportedError) as caught:
        export(tmp_path / "half", component_precision=other)
    line = (
        rf"{component}: the {layer} reaches \S+, past float16's 65504, so its answers on a GPU would be "
        rf"infinite; give `settings.component_precision={{'{component}': 'fp32'}}`"
    )
    assert re.fullmatch(line, str(caught.value))
    assert list(tmp_path.iterdir()) == []
    folder = export(tmp_path / "mixed", component_precision={**other, component: "fp32"})
    assert open_bundle(folder).manifest.components[component].precision == "fp32"
    layers = large.checkpoint.model.modules()
    assert not any(module._forward_hooks for module in layers)
