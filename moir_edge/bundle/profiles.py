"""Shape ranges of the named axes in a compiled engine, derived from the model's facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moir_edge.bundle import ModelFacts
from moir_edge.errors import BundleError, UnsupportedError

__all__ = ["AxisRange", "Profile", "component_profiles"]

_MAX_BATCH = 4
# Attention memory grows with new tokens × all tokens: longer prompts go through the engine in pieces of this
# many tokens, which the cache makes exact.
_MAX_NEW_TOKENS = 2048
_TYPICAL_TOKENS = 256
_TYPICAL_TEXT_TOKENS = 64
_TYPICAL_IMAGE_TOKENS = 256  # of an image, where images have no tiles of one size
# A large SmolVLM image makes 17 tiles; each costs activation memory in the vision tower.
_MAX_TILES = 20
# Every patch of an image may look at every other, which takes memory for each pair of them.
_MAX_IMAGE_TOKENS = 2048
_LARGEST_BLOCK = 64


@dataclass(frozen=True)
class AxisRange:
    """Smallest, most usual and largest size of an axis; kernels are chosen for the most usual one."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 0 <= self.min <= self.opt <= self.max:
            raise ValueError(f"no ascending sizes: {self}")


@dataclass(frozen=True)
class Profile:
    """One optimization profile of an engine.

    Attributes:
        name: ``default``; the decoder has ``prefill`` (index 0) and ``decode`` (index 1) instead.
        axes: Range by axis name.
    """

    name: str
    axes: Mapping[str, AxisRange]

    def sizes(
        self, tensor: str, shape: Sequence[int | str]
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Return smallest, most usual and largest shape of an input.

        Args:
            tensor: Its name, for the error.
            shape: Numbers and axis names, as the manifest has them.

        Raises:
            UnsupportedError: An axis name that is not in the table.
        """
        ranges = [self._range(tensor, axis) for axis in shape]
        return (
            tuple(axis.min for axis in ranges),
            tuple(axis.opt for axis in ranges),
            tuple(axis.max for axis in ranges),
        )

    def _range(self, tensor: str, axis: int | str) -> AxisRange:
        if isinstance(axis, int):
            return AxisRange(axis, axis, axis)
        if axis not in self.axes:
            raise UnsupportedError(
                f"input {tensor!r} has the axis {axis!r}; engines know {', '.join(sorted(self.axes))}"
            )
        return self.axes[axis]


def component_profiles(component: str, model: ModelFacts) -> tuple[Profile, ...]:
    """Return the optimization profiles of a component's engine, in their order in the engine.

    The decoder has two, so that the one-token step gets kernels of its own: ``prefill`` takes many new tokens
    after a cache that may be empty, ``decode`` exactly one after a cache that is not.

    Args:
        component: ``vision``, ``embedding``, ``router`` or ``decoder``.
        model: Supplies context length and image tokens per tile.
    """
    context = model.context_length
    tokens = model.tokens_per_tile or _TYPICAL_IMAGE_TOKENS
    tiles = max(1, min(_MAX_TILES, context // tokens))
    shared = {
        "batch": AxisRange(1, 1, _MAX_BATCH),
        "sequence": _up_to(context, _TYPICAL_TOKENS),
        "images": _up_to(tiles, 1),
        # The router compares each image token with each text token: as many as the vision engine can give.
        "image_tokens": _up_to(tiles * tokens, tokens),
        "text_tokens": _up_to(context, _TYPICAL_TEXT_TOKENS),
        **_patch_axes(model),
    }
    if component != "decoder":
        return (Profile("default", shared),)
    new = _up_to(min(context, _MAX_NEW_TOKENS), _TYPICAL_TOKENS)
    prefill = {
        "sequence": new,
        "past_sequence": AxisRange(0, 0, context - 1),
        # Past the context at its largest, since TensorRT checks that the shapes of a profile fit together.
        "total_sequence": AxisRange(new.min, new.opt, new.max + context - 1),
    }
    past = _up_to(context - 1, _TYPICAL_TOKENS)
    decode = {
        "sequence": AxisRange(1, 1, 1),
        "past_sequence": past,
        "total_sequence": AxisRange(past.min + 1, past.opt + 1, past.max + 1),
    }
    return (Profile("prefill", shared | prefill), Profile("decode", shared | decode))


def _patch_axes(model: ModelFacts) -> dict[str, AxisRange]:
    """Return the axes of a tower over the patches of one image; none for a family that has no blocks of patches."""
    if "merge_size" not in model.family:
        return {}
    merge, window = (_side(model, name) for name in ("merge_size", "window"))
    tokens = _up_to(min(model.context_length - 1, _MAX_IMAGE_TOKENS), _TYPICAL_IMAGE_TOKENS)
    return {
        "patches": AxisRange(*(size * merge**2 for size in (tokens.min, tokens.opt, tokens.max))),
        # An image of one row of blocks has the most windows; a square one is usual.
        "windows": _up_to(-(-tokens.max // window), -(-tokens.opt // window**2)),
    }


def _side(model: ModelFacts, name: str) -> int:
    """Return the side of a block or window among the family's settings; 1 where it has none."""
    found = model.family.get(name)
    if found is None:
        return 1
    if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= _LARGEST_BLOCK:
        raise BundleError(
            f"the manifest's model.family.{name} is {repr(found)[:40]}, expected a whole number from 1 to {_LARGEST_BLOCK}; "
            "export the bundle again"
        )
    return found


def _up_to(largest: int, usual: int) -> AxisRange:
    largest = max(1, largest)
    return AxisRange(1, max(1, min(usual, largest)), largest)
