"""Tiny models of transformers' vision-language classes: each class's default config with small sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moir_edge.errors import UnsupportedError
from moir_edge.weights.timm_towers import prepare_timm

__all__ = ["build_tiny", "family_types"]

VOCABULARY = 512
_POSITIONS = 2048
_FIRST_ID = 300  # where token ids beyond the small vocabulary are moved to
_MAX_PARAMETERS = 200_000_000

_WIDTHS = frozenset(
    [
        "hidden_size",
        "embed_dim",
        "d_model",
        "hidden_dim",
        "projection_dim",
        "width",
        "out_hidden_size",
        "encoder_hidden_size",
        "dim_model",
        "text_hidden_size",
        "mm_hidden_size",
        "projector_hidden_size",
        "word_embed_proj_dim",
        "feature_size",
        "adapter_inner_dim",
        "vision_output_dim",
        "output_dim",
        "vision_hidden_size",
        "connector_hidden_size",
        "output_hidden_size",
        "n_embd",
        "embedding_size",
        "ffn_dim",
        "mlp_dim",
        "encoder_ffn_dim",
        "decoder_ffn_dim",
        "d_ff",
        "ffn_hidden_size",
    ]
)
_DEPTHS = frozenset(["depth", "encoder_layers", "decoder_layers", "layers", "n_layer"])
_HEAD_WIDTHS = frozenset(
    [
        "head_dim",
        "qk_rope_head_dim",
        "v_head_dim",
        "qk_nope_head_dim",
        "global_head_dim",
        "d_kv",
        "q_lora_rank",
        "kv_lora_rank",
    ]
)
_EXPERTS = frozenset(["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"])
_ACTIVE = frozenset(["num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts"])
_LEFT_ALONE = frozenset(["rope_scaling", "id2label", "label2id"])
# What a default config leaves out although the class needs it, and pictures that fit small sizes.
_SET: Mapping[str, Mapping[str, Any]] = {
    "blip-2": {"image_token_index": _FIRST_ID},
    "instructblip": {"image_token_index": _FIRST_ID},
    "chameleon": {"vocabulary_map": {"<image>": _FIRST_ID}},
    "emu3": {"vocabulary_map": {"<image>": _FIRST_ID}},
    "fast_vlm": {
        # The widths of timm's tower, whose head dimension is 32; the map of features is twice as wide.
        "vision_config": {
            "hidden_size": 64,
            "model_args": {
                "inference_mode": True,
                "layers": [1, 1, 1, 1, 1],
                "embed_dims": [4, 4, 8, 32, 32],
            },
        }
    },
    "smolvlm": {"vision_config": {"image_size": 64, "patch_size": 16}, "scale_factor": 2},
    "idefics3": {"vision_config": {"image_size": 64, "patch_size": 16}, "scale_factor": 2},
    "granite_docling": {"vision_config": {"image_size": 64, "patch_size": 16}, "scale_factor": 2},
    "gemma3": {"vision_config": {"image_size": 64, "patch_size": 16}, "mm_tokens_per_image": 4},
    "shieldgemma2": {
        "vision_config": {"image_size": 64, "patch_size": 16},
        "mm_tokens_per_image": 4,
    },
    "mistral3": {"vision_config": {"image_size": 112}},
    "qwen2_5_omni_thinker": {"vision_start_token_id": _FIRST_ID - 1},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": _FIRST_ID - 1},
    "minicpmv4_6": {"image_token_id": _FIRST_ID, "video_token_id": _FIRST_ID + 1},
    "minicpmv4_7": {"image_token_id": _FIRST_ID, "video_token_id": _FIRST_ID + 1},
    "minicpm_ocr": {"image_token_id": _FIRST_ID, "video_token_id": _FIRST_ID + 1},
}


def family_types() -> tuple[str, ...]:
    """Return every `model_type` of transformers' image-text-to-text table."""
    return tuple(_classes())


def build_tiny(model_type: str) -> Any:
    """Build a model with small sizes and seeded random weights, in evaluation mode.

    Raises:
        UnsupportedError: The model stays large although its sizes are small.
        EnvironmentProblem: Its vision tower is one of timm, which is not installed.
    """
    import torch
    import transformers
    from transformers import AutoConfig

    default = AutoConfig.for_model(model_type)
    record = _shrunk(default.to_dict(), {})
    for name in ("architectures", "transformers_version", "model_type"):
        record.pop(name, None)
    config = type(default).from_dict(_merged(record, _SET.get(model_type, {})))
    prepare_timm(model_type, config.to_dict())
    model_class = getattr(transformers, _classes()[model_type])
    with torch.device("meta"):
        size = sum(weight.numel() for weight in model_class(config).parameters())
    if size > _MAX_PARAMETERS:
        raise UnsupportedError(f"{size:,} parameters after shrinking")
    torch.manual_seed(0)
    return model_class(config).eval()


def _classes() -> dict[str, str]:
    from transformers.models.auto import modeling_auto

    table: dict[str, str] = dict(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    return table


def _merged(record: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with entries set, at any depth."""
    result = dict(record)
    for name, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = _merged(result[name], value) if nested else value
    return result


def _shrunk(record: Mapping[str, Any], moved: dict[int, int]) -> dict[str, Any]:
    """Return a config's record with small sizes, at any depth.

    Args:
        record: From `to_dict`.
        moved: Token ids beyond the small vocabulary and what they became; filled on the way.
    """
    small: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping) and name not in _LEFT_ALONE:
            small[name] = _shrunk(value, moved)
        elif isinstance(name, str) and isinstance(value, int) and not isinstance(value, bool):
            small[name] = _size(name, value, moved)
        else:
            small[name] = value
    _fit_layers(record, small)
    _fit_rotary(small)
    return small


def _size(name: str, value: int, moved: dict[int, int]) -> int:
    if name.endswith(("token_id", "token_index")):
        beyond = value >= VOCABULARY
        return moved.setdefault(value, _FIRST_ID + len(moved)) if beyond else value
    limits = {
        name.endswith("vocab_size"): VOCABULARY,
        "max_position" in name: _POSITIONS,
        name in _WIDTHS or "intermediate_size" in name: 32,
        name in _DEPTHS or ("layers" in name and "num" in name): 2,
        "heads" in name or name == "n_head" or name in _ACTIVE: 2,
        name in _HEAD_WIDTHS: 16,
        name in _EXPERTS: 4,
    }
    return min(value, limits.get(True, value))


def _fit_layers(record: Mapping[str, Any], small: dict[str, Any]) -> None:
    """Cut lists of one entry per layer to the layers that are left: one of each kind, two at least."""
    kinds = record.get("layer_types")
    if isinstance(kinds, list) and kinds:
        picked = [kinds.index(kind) for kind in dict.fromkeys(kinds)]
        picked += [picked[-1]] * (2 - len(picked))
        small["num_hidden_layers"] = len(picked)
        layers: Any = len(kinds)
    else:
        layers = record.get("num_hidden_layers")
        if not isinstance(layers, int):
            return
        picked = list(range(small["num_hidden_layers"]))
    for name, value in small.items():
        if isinstance(value, list) and len(value) == layers and layers > len(picked):
            small[name] = [value[index] for index in picked]
        elif name == "per_layer_config":
            small[name] = {}


def _fit_rotary(small: dict[str, Any]) -> None:
    """Divide the rotary pairs of the small head among time, height and width, whether the config has three or not."""
    rotary = small.get("rope_parameters")
    if not isinstance(rotary, dict) or "rope_theta" not in rotary:
        return
    heads = small.get("num_attention_heads") or 1
    head = small.get("head_dim") or small.get("hidden_size", 32) // heads
    pairs = int(head * (rotary.get("partial_rotary_factor") or 1)) // 2
    side = 3 * pairs // 8
    rotary["mrope_section"] = [pairs - 2 * side, side, side]
