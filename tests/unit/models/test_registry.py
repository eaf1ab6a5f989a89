"""The table of architectures: every row is complete, and a miss helps."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import ClassVar

import pytest

from moir_edge.errors import UnsupportedError
from moir_edge.models import (
    Architecture,
    TileArchitecture,
    architecture_names,
    get_architecture,
    register,
)


def test_names_are_sorted() -> None:
    assert architecture_names() == tuple(sorted(architecture_names()))
    assert {"llava", "smolvlm"} <= set(architecture_names())


@pytest.mark.parametrize("name", architecture_names())
def test_every_row_names_its_parts(name: str) -> None:
    architecture = get_architecture(name)
    assert architecture.model_type == name
    assert architecture.language_model.startswith("model.")
    assert set(architecture.components) <= {"vision", "embedding", "decoder"}
    assert architecture.position_axes in (1, 3)


TILED = [
    name for name in architecture_names() if isinstance(get_architecture(name), TileArchitecture)
]


@pytest.mark.parametrize("name", TILED)
def test_vision_takes_tiles_of_a_fixed_size(name: str) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(name)
    (pixels,) = get_architecture(name).vision_inputs(config)
    size = get_architecture(name).image_size(config)
    assert pixels.shape == ("images", 3, size, size)


def test_tokens_per_tile_of_the_published_models() -> None:
    smolvlm = SimpleNamespace(
        vision_config=SimpleNamespace(image_size=512, patch_size=16), scale_factor=4
    )
    assert get_architecture("smolvlm").tokens_per_tile(smolvlm) == 64
    clip = SimpleNamespace(image_size=336, patch_size=14, model_type="clip_vision_model")
    llava = SimpleNamespace(vision_config=clip, vision_feature_select_strategy="default")
    assert get_architecture("llava").tokens_per_tile(llava) == 576
    llava.vision_feature_select_strategy = "full"
    assert get_architecture("llava").tokens_per_tile(llava) == 577
    clip.model_type, clip.image_size = "siglip_vision_model", 384
    assert get_architecture("llava").tokens_per_tile(llava) == 27**2
    llava.vision_feature_select_strategy = "default"
    assert get_architecture("llava").tokens_per_tile(llava) == 27**2 - 1


def test_a_tile_of_internvl_is_256_tokens_row_after_row() -> None:
    import torch
    from transformers import InternVLConfig
    from transformers.models.internvl.modeling_internvl import InternVLModel

    grid = get_architecture("internvl").image_grid(InternVLConfig())
    assert (grid.side, grid.tokens, grid.cell) == (16, 256, 28 / 448)
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    patches = torch.stack([rows, columns], dim=-1)[None].float()
    shuffled = InternVLModel.pixel_shuffle(None, patches, scale_factor=0.5).flatten(1, 2)[0]
    for token, features in enumerate(shuffled):
        places = features.reshape(4, 2)  # the four patches of the token's cell
        assert {tuple(place) for place in (places // 2).int().tolist()} == {
            (token // 16, token % 16)
        }


def test_vip_llava_never_keeps_the_class_token() -> None:
    from transformers import VipLlavaConfig

    config = VipLlavaConfig()
    grid = get_architecture("vipllava").image_grid(config)
    side = config.vision_config.image_size // config.vision_config.patch_size
    assert (grid.side, grid.first, grid.tokens) == (side, 0, side**2)


def test_unknown_type_lists_the_known_ones() -> None:
    with pytest.raises(UnsupportedError, match=r"'smolvlm2'.*did you mean 'smolvlm'.*llava"):
        get_architecture("smolvlm2")


def test_duplicate_is_refused() -> None:
    class Twice(Architecture):
        model_type: ClassVar[str] = "smolvlm"

    with pytest.raises(ValueError, match="'smolvlm' is registered already"):
        register(Twice)


def test_import_brings_no_torch() -> None:
    code = (
        "import sys, moir_edge.models; "
        "sys.exit(bool({'torch', 'transformers', 'onnx'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
