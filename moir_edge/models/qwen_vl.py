"""Qwen2-VL and Qwen2.5-VL: a tower over patches of any number, and a decoder with positions on three axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from moir_edge.bundle import TensorSpec
from moir_edge.models.grids import GridArchitecture
from moir_edge.models.registry import register

if TYPE_CHECKING:
    import torch

    from moir_edge.runtime.interface import PromptArrays

__all__ = ["PatchArchitecture", "Qwen2Vl", "Qwen25Vl"]

_PARTS = {
    "patch_size": "patch_size",
    "merge_size": "spatial_merge_size",
    "temporal_patch_size": "temporal_patch_size",
}


class PatchArchitecture(GridArchitecture):
    """An architecture whose image tokens have positions on three axes."""

    position_axes: ClassVar[int] = 3

    def tower_width(self, config: Any) -> int:
        """Return the width of the tower's hidden states."""
        return int(config.vision_config.hidden_size)

    def config_problem(self, config: Any) -> str | None:
        """Refuse patches that are not squares of three channels, and heads without quarters."""
        vision = config.vision_config
        for name in ("patch_size", "temporal_patch_size", "spatial_merge_size"):
            if not isinstance(getattr(vision, name), int):
                return f"vision_config has {name} {getattr(vision, name)!r}, which export does not follow; expected one number"
        if vision.in_channels != 3:
            return f"vision_config has in_channels {vision.in_channels}; expected 3, for red, green and blue"
        width, heads = self.tower_width(config), vision.num_heads
        if width % (4 * heads):
            return f"the vision tower has {heads} heads in a width of {width}; expected heads whose width is a multiple of 4"
        return None

    def processor_problem(self, record: Mapping[str, Any], config: Any) -> str | None:
        """Compare the patches that the processor cuts with those that the tower takes."""
        images = record["image_processor"]
        for ours, theirs in _PARTS.items():
            given, wanted = images.get(ours), getattr(config.vision_config, theirs)
            if given != wanted:
                return (
                    f"its image processor has {ours} {given} and the vision tower {theirs} {wanted}; "
                    "take the processor that belongs to the model"
                )
        return None

    def family_facts(self, config: Any) -> dict[str, Any]:
        """Return the sizes of patches and blocks, and what the rotary tables of the tower are made of."""
        vision = config.vision_config
        return {
            "patch_size": vision.patch_size,
            "frames": vision.temporal_patch_size,
            "merge_size": vision.spatial_merge_size,
            "head_dim": self.tower_width(config) // vision.num_heads,
            "rotary_base": float(vision.rope_parameters["rope_theta"]),
        }

    def torch_inputs(self, inputs: PromptArrays) -> dict[str, torch.Tensor]:
        """Return patches and grids; for text alone no grids, from which the model finds positions all the same."""
        import torch

        grids = [[1, image.rows, image.columns] for image in inputs.images]
        found = {"image_grid_thw": torch.tensor(grids, dtype=torch.int64).reshape(-1, 3)}
        if inputs.pixel_values is not None:
            found["pixel_values"] = torch.from_numpy(inputs.pixel_values)
        return found

    def torch_token_inputs(self, inputs: PromptArrays, config: Any) -> dict[str, torch.Tensor]:
        """Return the kind of each token, 1 for image tokens: without them the model numbers all tokens as text."""
        import torch

        types = torch.from_numpy(inputs.input_ids == self.image_token_id(config)).long()
        return {"mm_token_type_ids": types}

    def torch_step_positions(self, model: Any, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the number of tokens so far plus what the model itself found that images take off, on three axes."""
        taken_off: torch.Tensor = model.model.rope_deltas
        following = super().torch_step_positions(model, attention_mask) + taken_off
        return following.expand(self.position_axes, -1, -1)


@register
class Qwen2Vl(PatchArchitecture):
    """`Qwen2VLForConditionalGeneration`; all patches of an image see each other."""

    model_type: ClassVar[str] = "qwen2_vl"
    towers: ClassVar[tuple[str, ...]] = ("qwen2_vl_vision",)

    def tower_width(self, config: Any) -> int:
        """Return the width of the tower's hidden states, which its config calls otherwise than others do."""
        return int(config.vision_config.embed_dim)

    def vision_graph(self, model: Any) -> torch.nn.Module:
        """Return the tower and its merger."""
        from moir_edge.models.qwen_vision import QwenVision

        return QwenVision(model.model.visual)


@register
class Qwen25Vl(PatchArchitecture):
    """`Qwen2_5_VLForConditionalGeneration`; in most blocks of the tower patches see those of their window."""

    model_type: ClassVar[str] = "qwen2_5_vl"
    towers: ClassVar[tuple[str, ...]] = ("qwen2_5_vl_vision",)

    def config_problem(self, config: Any) -> str | None:
        """Refuse windows smaller than a block, too."""
        problem = super().config_problem(config)
        if problem is None and self.window(config) < 1:
            vision = config.vision_config
            return (
                f"vision_config has window_size {vision.window_size}, less than one block of "
                f"{vision.spatial_merge_size} x {vision.spatial_merge_size} patches of {vision.patch_size} pixels; "
                "correct it in config.json"
            )
        return problem

    def window(self, config: Any) -> int:
        """Return the side of a window, in blocks."""
        vision = config.vision_config
        return int(vision.window_size // vision.spatial_merge_size // vision.patch_size)

    def family_facts(self, config: Any) -> dict[str, Any]:
        """Return the side of a window, too."""
        return {**super().family_facts(config), "window": self.window(config)}

    def vision_graph(self, model: Any) -> torch.nn.Module:
        """Return the tower with its windows, and its merger."""
        from moir_edge.models.qwen_vision import WindowedQwenVision

        return WindowedQwenVision(
            model.model.visual, model.config.vision_config.fullatt_block_indexes
        )

    def vision_inputs(self, config: Any) -> tuple[TensorSpec, ...]:
        """Return the tables of windows, too."""
        facts = self.family_facts(config)
        table = ("windows", (facts["window"] * facts["merge_size"]) ** 2)
        return (
            *super().vision_inputs(config),
            TensorSpec(name="window_patches", dtype="int64", shape=table),
            TensorSpec(name="window_mask", dtype="int64", shape=table),
            TensorSpec(name="window_places", dtype="int64", shape=("patches",)),
        )
