"""LLaVA-NeXT and LLaVA-OneVision: LLaVA's parts, on the tiles of a canvas of the picture's shape."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

from moir_edge.bundle import TensorSpec
from moir_edge.models.llava import Llava
from moir_edge.models.registry import register

if TYPE_CHECKING:
    import torch

    from moir_edge.runtime.image_processor import ImageShape
    from moir_edge.runtime.interface import PromptArrays

__all__ = ["LlavaNext", "LlavaOnevision"]

_ASPECT = re.compile(r"anyres_max_([1-9][0-9]{0,2})")


@register
class LlavaNext(Llava):
    """`LlavaNextForConditionalGeneration`; tokens are put in rows outside the graph, which takes single tiles."""

    model_type: ClassVar[str] = "llava_next"

    def config_problem(self, config: Any) -> str | None:
        """Refuse what the model itself refuses once it sees a picture: tiles without a square of tokens, parts of tiles."""
        if self.image_grid(config).first != 0:
            strategy, tower = config.vision_feature_select_strategy, config.vision_config.model_type
            return (
                f"vision_feature_select_strategy {strategy!r} does not fit the tower {tower!r}, whose tiles then have no square of "
                "features; set 'default' for a tower with a class token (CLIP) and 'full' for one without"
            )
        tile = self.image_size(config)
        for canvas in config.image_grid_pinpoints:
            if any(edge % tile for edge in canvas):
                return (
                    f"image_grid_pinpoints hold {list(canvas)}, which is not made of whole tiles of {tile} pixels; "
                    "give multiples of vision_config.image_size"
                )
        return None

    def processor_problem(self, record: Mapping[str, Any], config: Any) -> str | None:
        """Compare the canvases that pictures are cut on with those that the model puts them together from."""
        pinpoints = record["image_processor"].get("image_grid_pinpoints")
        given = [list(canvas) for canvas in pinpoints or ()]
        wanted = [list(canvas) for canvas in config.image_grid_pinpoints]
        if given == wanted:
            return None
        return (
            f"its image processor has image_grid_pinpoints {given} and the model's config {wanted}; "
            "take the processor that belongs to the model"
        )

    def family_facts(self, config: Any) -> dict[str, Any]:
        """Return the canvases, (height, width) in px each."""
        return {"canvases": [list(canvas) for canvas in config.image_grid_pinpoints]}

    def vision_graph(self, model: Any) -> torch.nn.Module:
        """Return tower, feature selection and projector, and the token that ends a row."""
        from moir_edge.models.vision import AnyResVision

        return AnyResVision(super().vision_graph(model), model.model.image_newline)

    def vision_outputs(self, config: Any) -> tuple[TensorSpec, ...]:
        """Return the features of tiles and, for each tile, the token that ends a row, (images, hidden)."""
        shape = ("images", self.text_config(config).hidden_size)
        newline = TensorSpec(name="image_newline", dtype="float32", shape=shape)
        return (*super().vision_outputs(config), newline)

    def torch_inputs(self, inputs: PromptArrays) -> dict[str, torch.Tensor]:
        """Return the tiles of all images one after the other, and the images' sizes."""
        import torch

        found = super().torch_inputs(inputs)
        if found:
            found["image_sizes"] = torch.tensor([image.size for image in inputs.images])
        return found


@register
class LlavaOnevision(LlavaNext):
    """`LlavaOnevisionForConditionalGeneration`; tokens of large pictures are interpolated, several pictures have no tiles."""

    model_type: ClassVar[str] = "llava_onevision"

    def config_problem(self, config: Any) -> str | None:
        """Refuse an aspect rule without a number of tiles, too."""
        if not _ASPECT.fullmatch(str(config.vision_aspect_ratio)):
            return (
                f"vision_aspect_ratio is {config.vision_aspect_ratio!r}, expected anyres_max_N with N from 1 to 999; "
                "correct config.json"
            )
        return super().config_problem(config)

    def processor_problem(self, record: Mapping[str, Any], config: Any) -> str | None:
        """Compare the aspect rules, too."""
        given, wanted = record.get("vision_aspect_ratio"), config.vision_aspect_ratio
        if given != wanted:
            return (
                f"its processor has vision_aspect_ratio {given!r} and the model's config {wanted!r}; "
                "take the processor that belongs to the model"
            )
        return super().processor_problem(record, config)

    def family_facts(self, config: Any) -> dict[str, Any]:
        """Return the number of tiles whose tokens are kept besides."""
        found = _ASPECT.fullmatch(config.vision_aspect_ratio)
        most = int(found[1]) if found else None
        return {**super().family_facts(config), "most_tiles": most}

    def torch_inputs(self, inputs: PromptArrays) -> dict[str, torch.Tensor]:
        """Return how many images stand together, besides: those without tiles do, and the others stand alone."""
        import torch

        found = super().torch_inputs(inputs)
        if found:
            found["batch_num_images"] = torch.tensor(_together(inputs.images))
        return found


def _together(images: Sequence[ImageShape]) -> list[int]:
    counts: list[int] = []
    for cut, group in groupby(images, lambda image: image.rows > 0):
        number = len(list(group))
        counts += [1] * number if cut else [number]
    return counts
