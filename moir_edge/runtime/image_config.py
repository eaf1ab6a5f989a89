"""The settings of an image processor, checked before a picture is processed by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, AllowInfNan, BaseModel, ConfigDict, Field, ValidationError

from moir_edge.errors import BundleError, one_line
from moir_edge.limits import IMAGE_EDGE

__all__ = ["CanvasConfig", "CroppingConfig", "ImageConfig", "TilingConfig", "check_image_config"]

_SHOWN = 60  # characters of a value in a message

Tiles = Annotated[int, Field(ge=1, le=1024)]
Edge = Annotated[int, Field(ge=1, le=IMAGE_EDGE)]
Finite = Annotated[float, AllowInfNan(False)]


def _not_zero(value: float) -> float:
    if value == 0:
        raise ValueError("pixels are divided by it, so it cannot be 0")
    return value


Divisor = Annotated[Finite, AfterValidator(_not_zero)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Longest(_Record):
    longest_edge: Edge


class _Shortest(_Record):
    shortest_edge: Edge


class _HeightWidth(_Record):
    height: Edge
    width: Edge


class ImageConfig(_Record):
    """The settings that all image processors have, under the names of transformers."""

    resample: Annotated[int, Field(ge=0, le=5)]
    do_resize: bool
    do_rescale: bool
    do_normalize: bool
    rescale_factor: Finite
    image_mean: tuple[Finite, Finite, Finite]
    image_std: tuple[Divisor, Divisor, Divisor]


class TilingConfig(ImageConfig):
    """The settings of SmolVLM's processors."""

    do_image_splitting: bool
    size: _Longest | _HeightWidth
    max_image_size: _Longest


class CanvasConfig(ImageConfig):
    """The settings of GotOCR2's processor."""

    size: _HeightWidth
    crop_to_patches: bool
    min_patches: Tiles
    max_patches: Tiles


class CroppingConfig(ImageConfig):
    """The settings of LLaVA's processors."""

    do_center_crop: bool
    do_pad: bool
    size: _Shortest | _HeightWidth | Edge
    crop_size: _HeightWidth | Edge


def check_image_config(config: Mapping[str, Any], kind: type[ImageConfig]) -> None:
    """Refuse settings of a wrong type or size.

    Args:
        config: The image processor's JSON object with the defaults of its family.
        kind: The settings that its family has.

    Raises:
        BundleError: The first setting that is wrong, by its name.
    """
    try:
        kind.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        # A union names the alternative that was tried between key and part.
        place = [str(part) for part in first["loc"] if not str(part).startswith("_")]
        key = str(first["loc"][0])
        shown = repr(config.get(key))[:_SHOWN]
        raise BundleError(
            f"the image processor's {'.'.join(place)}: {one_line(first['msg'])} ({key} is {shown}); "
            "correct preprocessor_config.json, or export the bundle again"
        ) from error
