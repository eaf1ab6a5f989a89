"""Geometry of a published checkpoint of each family: what its config and its image processor say of an image's size in tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["GEOMETRIES", "Geometry", "image_tokens"]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes of one published checkpoint.

    Attributes:
        checkpoint: Its name on the hub.
        config: Arguments of the family's config class; what it leaves out has transformers' default.
        images: The image processor's record.
    """

    checkpoint: str
    config: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, Any]


def _tiles(size: int, tile: int, kind: str) -> dict[str, Any]:
    return {
        "image_processor_type": f"{kind}ImageProcessor",
        "do_image_splitting": True,
        "size": {"longest_edge": size},
        "max_image_size": {"longest_edge": tile},
    }


def _square(side: int, kind: str, **more: Any) -> dict[str, Any]:
    size = {"height": side, "width": side}
    return {"image_processor_type": f"{kind}ImageProcessor", "size": size, **more}


def _shortest(side: int, kind: str, **more: Any) -> dict[str, Any]:
    crop = {"height": side, "width": side}
    size = {"shortest_edge": side}
    return {
        "image_processor_type": f"{kind}ImageProcessor",
        "size": size,
        "crop_size": crop,
        **more,
    }


def _patches(patch: int, least: int, most: int) -> dict[str, Any]:
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": patch,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": least, "longest_edge": most},
    }


def _tower(kind: str, image: int, patch: int) -> dict[str, Any]:
    return {"vision_config": {"model_type": kind, "image_size": image, "patch_size": patch}}


_CLIP = _tower("clip_vision_model", 336, 14)
_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_ONEVISION = [[384 * height, 384 * width] for height in range(1, 7) for width in range(1, 7)]

GEOMETRIES: Mapping[str, Geometry] = {
    "aya_vision": Geometry(
        checkpoint="aya-vision-8b",
        config=_tower("siglip_vision_model", 364, 14),
        images=_square(364, "GotOcr2", crop_to_patches=True, max_patches=12),
    ),
    "fast_vlm": Geometry(
        checkpoint="FastVLM-0.5B",
        config={"image_seq_length": 256},
        images=_shortest(1024, "CLIP"),
    ),
    "gemma3": Geometry(
        checkpoint="gemma-3-4b-it",
        config={**_tower("siglip_vision_model", 896, 14), "mm_tokens_per_image": 256},
        images=_square(896, "Gemma3"),
    ),
    "granite_docling": Geometry(
        checkpoint="granite-docling", images=_square(512, "GraniteDocling")
    ),
    "idefics3": Geometry(
        checkpoint="SmolVLM-256M-Instruct",
        config={**_tower("idefics3_vision", 512, 16), "scale_factor": 4},
        images=_tiles(2048, 512, "Idefics3"),
    ),
    "internvl": Geometry(
        checkpoint="InternVL3-1B-hf",
        config={
            "vision_config": {
                "model_type": "internvl_vision", "image_size": [448, 448], "patch_size": [14, 14]
            }
        },
        images=_square(448, "GotOcr2", crop_to_patches=True, max_patches=12),
    ),
    "llava": Geometry(
        checkpoint="llava-1.5-7b-hf", config=_CLIP, images=_shortest(336, "CLIP")
    ),
    "llava_next": Geometry(
        checkpoint="llava-v1.6-mistral-7b-hf",
        config={**_CLIP, "image_grid_pinpoints": _PINPOINTS},
        images=_shortest(336, "LlavaNext", image_grid_pinpoints=_PINPOINTS),
    ),
    "llava_onevision": Geometry(
        checkpoint="llava-onevision-qwen2-0.5b-ov-hf",
        config={**_tower("siglip_vision_model", 384, 14), "image_grid_pinpoints": _ONEVISION},
        images=_square(384, "LlavaOnevision", image_grid_pinpoints=_ONEVISION),
    ),
    "mistral3": Geometry(
        checkpoint="Mistral-Small-3.1-24B-Instruct-2503",
        config={**_tower("pixtral", 1540, 14), "spatial_merge_size": 2},
        images={
            "image_processor_type": "PixtralImageProcessor",
            "patch_size": {"height": 14, "width": 14},
            "size": {"longest_edge": 1540},
        },
    ),
    "paligemma": Geometry(
        checkpoint="paligemma2-3b-mix-224",
        config=_tower("siglip_vision_model", 224, 14),
        images=_square(224, "Siglip"),
    ),
    "qwen2_5_vl": Geometry(
        checkpoint="Qwen2.5-VL-3B-Instruct", images=_patches(14, 3136, 12_845_056)
    ),
    "qwen2_vl": Geometry(
        checkpoint="Qwen2-VL-2B-Instruct", images=_patches(14, 3136, 12_845_056)
    ),
    "qwen3_vl": Geometry(
        checkpoint="Qwen3-VL-2B-Instruct", images=_patches(16, 65_536, 16_777_216)
    ),
    "smolvlm": Geometry(
        checkpoint="SmolVLM2-500M-Video-Instruct",
        config={**_tower("smolvlm_vision", 512, 16), "scale_factor": 4},
        images=_tiles(2048, 512, "SmolVLM"),
    ),
    "vipllava": Geometry(
        checkpoint="vip-llava-7b-hf", config=_CLIP, images=_shortest(336, "CLIP")
    ),
}  # fmt: skip
"""Geometry by `model_type`."""


def image_tokens(model_type: str, width: int, height: int) -> int:
    """Return how many image tokens a picture becomes, by the code that prepares prompts on a device.

    Args:
        model_type: One of `GEOMETRIES` that the registry has.
        width: Of the picture, in px.
        height: Of the picture, in px.
    """
    from PIL import Image

    from moir_edge.runtime.families import family_of
    from moir_edge.runtime.image_processing import image_processor_from

    family = family_of(_facts(model_type))
    process = image_processor_from(family.image_settings(GEOMETRIES[model_type].images))
    return family.token_count(process(Image.new("RGB", (width, height))).shape)


def _facts(model_type: str) -> Any:
    """Return the facts of a published config, with ones for what an image's tokens do not depend on."""
    from transformers import AutoConfig

    from moir_edge.bundle import ModelFacts
    from moir_edge.models import get_architecture

    architecture = get_architecture(model_type)
    config = AutoConfig.for_model(model_type, **GEOMETRIES[model_type].config)
    grid = architecture.image_grid(config)
    return ModelFacts(
        model_type=model_type,
        hidden_size=1,
        num_layers=1,
        num_kv_heads=1,
        head_dim=1,
        vocab_size=1,
        context_length=1 << 20,
        image_token_id=architecture.image_token_id(config),
        eos_token_ids=(0,),
        pad_token_id=0,
        special_token_ids=(),
        image_size=architecture.image_size(config),
        tokens_per_tile=None if grid is None else grid.tokens,
        image_grid=grid,
        family=architecture.family_facts(config),
    )
