"""The settings of an image processor, checked before a picture is processed by them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from moir_edge.errors import BundleError
from moir_edge.json_files import json_kind
from moir_edge.limits import IMAGE_EDGE

__all__ = [
    "ANYRES",
    "CANVAS",
    "CROPPING",
    "EDGE_PATCHES",
    "PAGES",
    "PATCHES",
    "SQUARE",
    "TILING",
    "Settings",
    "check_image_config",
]

Check: TypeAlias = Callable[[str, Any], None]
Settings: TypeAlias = Mapping[str, Check]
"""Setting, under its name in transformers, to the function that refuses a wrong value with `_WrongError`."""

_SHOWN = 60  # characters of a value in a message
_MOST_TILES = 1024
_MOST_CANVASES = 256  # models in use have 36 at most
_PATCH, _MERGE = (
    256,
    16,
)  # sides of a patch in px and of a block in patches; models in use have 16 and 2
_FRAMES = 4  # copies of a picture in the patches; models in use have 2
_FILTERS = 5  # the largest of Pillow's numbers of resampling filters


class _WrongError(ValueError):
    """A setting's place, and what is expected there."""


def check_image_config(config: Mapping[str, Any], settings: Settings) -> None:
    """Refuse settings of a wrong type or size.

    Args:
        config: The image processor's JSON object with the defaults of its family.
        settings: Those that its family has.

    Raises:
        BundleError: The first setting that is wrong, by its name.
    """
    for key, check in settings.items():
        try:
            check(key, config.get(key))
        except _WrongError as problem:
            raise BundleError(
                f"the image processor's {problem} ({key} is {repr(config.get(key))[:_SHOWN]}); "
                "correct preprocessor_config.json, or export the bundle again"
            ) from None


def _whole(least: int, most: int) -> Check:
    def check(place: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise _WrongError(f"{place} must be a whole number from {least} to {most}")

    return check


def _switch(place: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise _WrongError(f"{place} must be true or false")


def _number(place: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _WrongError(f"{place} must be a finite number")


def _divisor(place: str, value: Any) -> None:
    _number(place, value)
    if value == 0:
        raise _WrongError(f"{place} is 0, and pixels are divided by it")


def _channels(check: Check) -> Check:
    def check_all(place: str, values: Any) -> None:
        if not isinstance(values, list | tuple) or len(values) != 3:
            raise _WrongError(f"{place} must be a list of three numbers")
        for at, value in enumerate(values):
            check(f"{place}[{at}]", value)

    return check_all


def _pixels(place: str, value: Any) -> None:
    """Accept an object with the least and the largest number of pixels, under transformers' names for them."""
    if not isinstance(value, Mapping):
        raise _WrongError(
            f"{place} is {json_kind(value)}, expected an object with shortest_edge and longest_edge"
        )
    least, most = value.get("shortest_edge"), value.get("longest_edge")
    for key, bound in (("shortest_edge", least), ("longest_edge", most)):
        _whole(1, IMAGE_EDGE**2)(f"{place}.{key}", bound)
    if int(least or 0) > int(most or 0):
        raise _WrongError(
            f"{place}.shortest_edge, the least number of pixels, is above longest_edge, the largest"
        )


def _size(*forms: tuple[str, ...], square: bool = False) -> Check:
    """Accept an object with the keys of one form, and, as a square, its side alone."""

    def check(place: str, value: Any) -> None:
        if square and not isinstance(value, Mapping):
            _edge(place, value)
            return
        named = " or ".join(" and ".join(keys) for keys in forms)
        if not isinstance(value, Mapping):
            raise _WrongError(f"{place} is {json_kind(value)}, expected an object with {named}")
        keys = next((keys for keys in forms if all(key in value for key in keys)), None)
        if keys is None:
            raise _WrongError(f"{place} lacks {named}")
        for key in keys:
            _edge(f"{place}.{key}", value[key])

    return check


_edge = _whole(1, IMAGE_EDGE)


def _on(place: str, value: Any) -> None:
    if value is not True:
        raise _WrongError(f"{place} must be true")


def _off(place: str, value: Any) -> None:
    if value is not False:
        raise _WrongError(f"{place} must be false, crops of an image are not supported")


def _canvases(place: str, value: Any) -> None:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= _MOST_CANVASES:
        raise _WrongError(f"{place} must be a list of 1 to {_MOST_CANVASES} pairs")
    for at, pair in enumerate(value):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise _WrongError(f"{place}[{at}] must be a list of a height and a width")
        for axis, edge in zip(_SQUARE, pair, strict=True):
            _edge(f"{place}[{at}].{axis}", edge)


def _square_patch(place: str, value: Any) -> None:
    """Accept the side of a patch, alone or as height and width that are equal."""
    sides = [value.get(axis) for axis in _SQUARE] if isinstance(value, Mapping) else [value]
    for side in sides:
        _whole(1, _PATCH)(place, side)
    if len(set(sides)) > 1:
        raise _WrongError(f"{place} must have equal height and width")


_SQUARE = ("height", "width")
_COMMON: Settings = {
    "resample": _whole(0, _FILTERS),
    "do_resize": _switch,
    "do_rescale": _switch,
    "do_normalize": _switch,
    "rescale_factor": _number,
    "image_mean": _channels(_number),
    "image_std": _channels(_divisor),
}

TILING: Settings = {
    **_COMMON,
    "do_image_splitting": _switch,
    "size": _size(("longest_edge",), _SQUARE),
    "max_image_size": _size(("longest_edge",)),
}
"""The settings of SmolVLM's processors."""

CANVAS: Settings = {
    **_COMMON,
    "size": _size(_SQUARE),
    "crop_to_patches": _switch,
    "min_patches": _whole(1, _MOST_TILES),
    "max_patches": _whole(1, _MOST_TILES),
}
"""The settings of GotOCR2's processor."""

PAGES: Settings = {
    **CANVAS,
    "fine_route": _switch,
    "dense_max_patches": _whole(0, _MOST_TILES),
    "dense_max_scale": _number,
    "dense_min_aspect": _number,
    "dense_max_aspect": _number,
}
"""The settings of Granite-Docling's processor."""

CROPPING: Settings = {
    **_COMMON,
    "do_center_crop": _switch,
    "do_pad": _switch,
    "size": _size(("shortest_edge",), _SQUARE, square=True),
    "crop_size": _size(_SQUARE, square=True),
}
"""The settings of LLaVA's processors."""

SQUARE: Settings = {**_COMMON, "size": _size(_SQUARE), "do_pan_and_scan": _off}
"""The settings of Gemma 3's processor."""

PATCHES: Settings = {
    **_COMMON,
    "size": _pixels,
    "patch_size": _whole(1, _PATCH),
    "temporal_patch_size": _whole(1, _FRAMES),
    "merge_size": _whole(1, _MERGE),
}
"""The settings of Qwen2-VL's processor."""

EDGE_PATCHES: Settings = {
    **_COMMON,
    "size": _size(("longest_edge",), _SQUARE, square=True),
    "do_center_crop": _off,
    "patch_size": _square_patch,
    "merge_size": _whole(1, _MERGE),
}
"""The settings of Pixtral's processor; `merge_size` comes from the processor around it."""

ANYRES: Settings = {
    **_COMMON,
    "do_resize": _on,
    "do_center_crop": _switch,
    "size": _size(("shortest_edge",), _SQUARE),
    "image_grid_pinpoints": _canvases,
}
"""The settings of LLaVA-NeXT's and LLaVA-OneVision's processors; `crop_size` is compared with `size`."""
