"""Gemma 3: a SigLIP tower pooled to a square of tokens, and a decoder of sliding and full layers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from moir_edge.bundle import ImageGrid, TensorSpec
from moir_edge.models.base import TileArchitecture
from moir_edge.models.registry import register

if TYPE_CHECKING:
    import torch

    from moir_edge.runtime.interface import PromptArrays

__all__ = ["BlockArchitecture", "Gemma3"]


class BlockArchitecture(TileArchitecture):
    """Square images, and a decoder that is told which tokens of a prompt see each other in both directions.

    Attributes:
        blocks_cross_window: Whether sliding layers see a block whole, or only what of it lies in the window.
    """

    towers: ClassVar[tuple[str, ...]] = ("siglip_vision_model",)
    language_model: ClassVar[str] = "model.language_model"
    blocks_cross_window: ClassVar[bool] = False

    def config_problem(self, config: Any) -> str | None:
        """Refuse an image token without a row in the embedding table: the host looks every token up."""
        rows, token = self.text_config(config).vocab_size, self.image_token_id(config)
        if token < rows:
            return None
        return (
            f"image_token_index {token} has no row in the embedding table (vocab_size {rows} of text_config in config.json); "
            "take the config.json of its base model"
        )

    def vision_graph(self, model: Any) -> torch.nn.Module:
        """Return tower and projector."""
        from moir_edge.models.vision import ProjectedVision

        return ProjectedVision(model.model.vision_tower, model.model.multi_modal_projector)

    def decoder_graph(self, model: Any) -> torch.nn.Module:
        """Return language model, head and soft-cap, with masks of blocks."""
        from functools import partial

        from moir_edge.models.decoder import BlockDecoderGraph
        from moir_edge.models.masks import LayerMasks

        language_model = model.get_submodule(self.language_model)
        masks = LayerMasks(language_model.config, blocks_cross_window=self.blocks_cross_window)
        after_head = partial(self.after_head, config=model.config)
        head = model.get_submodule(self.lm_head)
        return BlockDecoderGraph(language_model, head, after_head, masks=masks)

    def decoder_inputs(self, config: Any) -> tuple[TensorSpec, ...]:
        """Return the number of each token's block, -1 for a causal token."""
        del config
        return (TensorSpec(name="attention_blocks", dtype="int64", shape=("batch", "sequence")),)


@register
class Gemma3(BlockArchitecture):
    """`Gemma3ForConditionalGeneration`; one square for each image."""

    model_type: ClassVar[str] = "gemma3"

    def image_grid(self, config: Any) -> ImageGrid:
        """Return the pooled patches of the square image."""
        side = math.isqrt(config.mm_tokens_per_image)
        patch, size = int(config.vision_config.patch_size), self.image_size(config)
        return ImageGrid(side=side, cell=patch * (size // patch // side) / size)

    def torch_token_inputs(self, inputs: PromptArrays, config: Any) -> dict[str, torch.Tensor]:
        """Return token types, 1 for image tokens and 0 for text: one block for each run of image tokens."""
        import torch

        types = torch.from_numpy(inputs.input_ids == self.image_token_id(config)).long()
        return {"token_type_ids": types}
