"""FastVLM: what its config says of tiles, and what is refused."""

from __future__ import annotations

from typing import Any

from transformers import FastVlmConfig

from moir_edge.models import get_architecture


def build_config(architecture: str = "fastvit_mci3", **changes: Any) -> Any:
    vision = {"model_type": "timm_wrapper", "architecture": architecture}
    return FastVlmConfig(vision_config=vision, **changes)


def test_a_published_model_has_tiles_of_1024_px() -> None:
    fast_vlm = get_architecture("fast_vlm")
    config = build_config("fastvit_mci3.apple_mclip2_dfndr2b", image_seq_length=256)
    assert fast_vlm.config_problem(config) is None
    assert fast_vlm.image_size(config) == 1024
    grid = fast_vlm.image_grid(config)
    assert grid is not None
    assert (grid.side, grid.first, grid.tokens) == (16, 0, 256)


def test_what_no_grid_is_known_of_is_refused() -> None:
    problem = get_architecture("fast_vlm").config_problem
    assert problem(build_config("resnet50")) == (
        "vision_config.architecture 'resnet50' is not a tower whose grid export knows (known: fastvit_mci3, fastvit_mci4); "
        "retrofit and tune accept it"
    )
    assert problem(build_config(image_seq_length=255)) == (
        "image_seq_length is 255, expected a square; correct config.json"
    )
