"""Mistral Small 3.x and Ministral 3: Pixtral's tower over patches of any number, and a Mistral decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from moir_edge.models.grids import GridArchitecture
from moir_edge.models.registry import register
from moir_edge.runtime.families.mistral3 import ROW_ENDS

if TYPE_CHECKING:
    import torch

    from moir_edge.runtime.interface import PromptArrays

__all__ = ["Mistral3"]


@register
class Mistral3(GridArchitecture):
    """`Mistral3ForConditionalGeneration`; the model masks images from each other, and here each has a run of its own."""

    model_type: ClassVar[str] = "mistral3"
    towers: ClassVar[tuple[str, ...]] = ("pixtral",)

    def config_problem(self, config: Any) -> str | None:
        """Refuse patches that are not squares of three channels, heads without quarters, and features of several blocks."""
        vision = config.vision_config
        if not isinstance(vision.patch_size, int):
            return f"vision_config has patch_size {vision.patch_size!r}, which export does not follow; expected one number"
        if vision.num_channels != 3:
            return f"vision_config has num_channels {vision.num_channels}; expected 3, for red, green and blue"
        width, heads = vision.hidden_size, vision.num_attention_heads
        if width % (4 * heads) or vision.head_dim != width // heads:
            return (
                f"the vision tower has {heads} heads of {vision.head_dim} in a width of {width}; expected heads that share "
                "the width, in multiples of 4"
            )
        if self.blocks(config) is None:
            return (
                f"vision_feature_layer is {config.vision_feature_layer}, expected one block of the tower's "
                f"{vision.num_hidden_layers}: from 1, or from -1 at the last; correct config.json"
            )
        return None

    def processor_problem(self, record: Mapping[str, Any], config: Any) -> str | None:
        """Compare the blocks of patches, and the tokens that end rows, with those that the device has."""
        given = (record.get("patch_size"), record.get("spatial_merge_size"))
        wanted = (config.vision_config.patch_size, config.spatial_merge_size)
        if given != wanted:
            return (
                f"its processor has patch_size and spatial_merge_size {given} and the model's config {wanted}; "
                "take the processor that belongs to the model"
            )
        for name, token in ROW_ENDS.items():
            if record.get(name, token) != token:
                return f"its processor has {name} {record[name]!r}, expected {token!r}; correct processor_config.json"
        return None

    def blocks(self, config: Any) -> int | None:
        """Return the block of the tower whose features are taken, counted from 1; None for another layer."""
        chosen, count = config.vision_feature_layer, config.vision_config.num_hidden_layers
        layers = [chosen] if isinstance(chosen, int) else list(chosen)
        if len(layers) != 1:
            return None  # the projector's norm has the width of one
        block = layers[0] + count + 1 if layers[0] < 0 else layers[0]
        return block if 1 <= block <= count else None

    def family_facts(self, config: Any) -> dict[str, Any]:
        """Return the sizes of patches and blocks, and what the rotary tables of the tower are made of."""
        vision = config.vision_config
        return {
            "patch_size": vision.patch_size,
            "frames": 1,
            "merge_size": config.spatial_merge_size,
            "head_dim": vision.hidden_size // vision.num_attention_heads,
            "rotary_base": float(vision.rope_parameters["rope_theta"]),
        }

    def vision_graph(self, model: Any) -> torch.nn.Module:
        """Return tower, merger and projector."""
        from moir_edge.models.pixtral_vision import PixtralVision

        inner, blocks = model.model, self.blocks(model.config)
        return PixtralVision(inner.vision_tower, inner.multi_modal_projector, blocks or 0)

    def torch_inputs(self, inputs: PromptArrays) -> dict[str, torch.Tensor]:
        """Return the pictures (images, 3, height, width), filled up to the largest, and their sizes."""
        import torch

        from moir_edge.runtime.patch_grid import as_picture

        if inputs.pixel_values is None:
            return {}
        patch = round((inputs.pixel_values.shape[1] / 3) ** 0.5)
        sizes = [(image.rows * patch, image.columns * patch) for image in inputs.images]
        together = torch.zeros(len(sizes), 3, *(max(edges) for edges in zip(*sizes, strict=True)))
        done = 0
        for index, (image, size) in enumerate(zip(inputs.images, sizes, strict=True)):
            grid = image.views[0].grid or (image.rows, image.columns)
            end = done + image.rows * image.columns
            picture = as_picture(inputs.pixel_values[done:end], size, patch, image.rows // grid[0])
            together[index, :, : size[0], : size[1]] = torch.from_numpy(picture)
            done = end
        return {"pixel_values": together, "image_sizes": torch.tensor(sizes)}
