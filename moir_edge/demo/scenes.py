"""Scenes of one to four coloured pictures, digits by default, on a 3 × 3 layout, and their vectorised rendering to 96 × 96 px."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moir_edge.demo.glyphs import GLYPH_CORE, GLYPH_SIDE
from moir_edge.demo.theme import DIGITS, Theme

__all__ = [
    "CELL", "COLOURS", "IMAGE_SIDE", "PLACES", "SIZES", "Item", "Scene", "related_scene", "render", "sample_scene",
]  # fmt: skip

CELL = 32
IMAGE_SIDE = 3 * CELL
PLACES = (
    "top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right",
)  # fmt: skip
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (235, 60, 55),
    "green": (60, 205, 90),
    "blue": (75, 125, 255),
    "yellow": (245, 220, 60),
    "purple": (195, 85, 230),
    "white": (238, 238, 238),
}
SIZES = {"small": 18, "large": 28}
_COUNT_WEIGHTS = (2, 3, 3, 3)
_TEXTURES = 32
_COLOUR_NAMES = tuple(COLOURS)
_SIZE_NAMES = tuple(SIZES)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One digit, or another picture, of a scene.

    Attributes:
        digit: 0..9; in another theme, which of its kinds.
        glyph: Index of the picture in what the theme loads.
        colour: A key of `COLOURS`.
        size: A key of `SIZES`.
        place: Cell of the 3 × 3 layout, 0..8 in reading order; `PLACES` has its name.
        shift: (x, y) offset in pixels of the picture's centre from the cell's centre.
        shade: Brightness factor in [0.85, 1].
    """

    digit: int
    glyph: int
    colour: str
    size: str
    place: int
    shift: tuple[float, float]
    shade: float


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Content of one image: items in reading order over a dark background (RGB, 0..255) with a faint texture."""

    items: tuple[Item, ...]
    background: tuple[int, int, int]
    texture: int
    theme: Theme = field(default=DIGITS, repr=False)


def _sample_item(
    rng: random.Random, pictures: tuple[tuple[int, ...], ...], place: int, digit: int, colour: str
) -> Item:
    size = rng.choice(_SIZE_NAMES)
    room = (CELL - SIZES[size]) / 2.0
    return Item(
        digit=digit,
        glyph=rng.choice(pictures[digit]),
        colour=colour,
        size=size,
        place=place,
        shift=(rng.uniform(-room, room), rng.uniform(-room, room)),
        shade=rng.uniform(0.85, 1.0),
    )


def sample_scene(
    rng: random.Random,
    split: str,
    *,
    count: int | None = None,
    wanted: Sequence[tuple[int | None, str | None]] = (),
    theme: Theme = DIGITS,
) -> Scene:
    """Draw a scene from the pictures of one split.

    Args:
        rng: Source of randomness.
        split: `train`, `val` or `test`.
        count: Number of pictures, 1..9; drawn from 1..4 when None.
        wanted: For the first items, a (digit, colour) to use; None leaves that attribute free.
        theme: What the pictures are.
    """
    if count is None:
        count = rng.choices((1, 2, 3, 4), _COUNT_WEIGHTS)[0]
    places = rng.sample(range(9), count)
    pictures = theme.split(split)
    items = []
    for index, place in enumerate(places):
        digit, colour = wanted[index] if index < len(wanted) else (None, None)
        digit = rng.randrange(len(theme.names)) if digit is None else digit
        colour = rng.choice(_COLOUR_NAMES) if colour is None else colour
        items.append(_sample_item(rng, pictures, place, digit, colour))
    items.sort(key=lambda item: item.place)
    red, green, blue = (rng.randrange(8, 56) for _ in range(3))
    return Scene(
        items=tuple(items),
        background=(red, green, blue),
        texture=rng.randrange(_TEXTURES),
        theme=theme,
    )


def related_scene(rng: random.Random, split: str, other: Scene) -> Scene:
    """Draw a scene that often shares a digit, a colour, both or the number of digits with another one of its theme."""
    item = rng.choice(other.items)
    wanted = rng.choice(
        (
            (item.digit, None),
            (item.digit, None),
            (None, item.colour),
            (item.digit, item.colour),
            (None, None),
        )
    )
    count = len(other.items) if rng.random() < 0.25 else None
    return sample_scene(rng, split, count=count, wanted=(wanted,), theme=other.theme)


@functools.lru_cache(maxsize=1)
def _textures() -> npt.NDArray[np.float32]:
    """Seeded gradients with a little noise, in 8-bit steps: (_TEXTURES, side, side, 3)."""
    rng = np.random.default_rng(7)
    ramp = np.linspace(-1.0, 1.0, IMAGE_SIDE, dtype=np.float32)
    tilt = rng.uniform(-8.0, 8.0, (_TEXTURES, 2, 1, 1, 3)).astype(np.float32)
    smooth = tilt[:, 0] * ramp[None, :, None, None] + tilt[:, 1] * ramp[None, None, :, None]
    noise = rng.normal(0.0, 3.0, (_TEXTURES, IMAGE_SIDE, IMAGE_SIDE, 3)).astype(np.float32)
    result: npt.NDArray[np.float32] = smooth + noise
    return result


def _ink(scenes: Sequence[Scene], warp: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
    """Sample every glyph bilinearly into its 32 px cell: (items, CELL, CELL) in [0, 1]."""
    items = [item for scene in scenes for item in scene.items]
    scale = np.array([GLYPH_CORE / SIZES[item.size] for item in items], np.float32)
    shift = np.array([item.shift for item in items], np.float32)
    axis = np.arange(CELL, dtype=np.float32) - (CELL - 1) / 2.0
    x = (axis[None, None, :] - shift[:, 0, None, None]) * scale[:, None, None]
    y = (axis[None, :, None] - shift[:, 1, None, None]) * scale[:, None, None]
    x, y = np.broadcast_arrays(x, y)
    if warp is not None:
        a, b, c, d = (warp[:, index, None, None] for index in range(4))
        x, y = a * x + b * y, c * x + d * y
    middle = (GLYPH_SIDE - 1) / 2.0
    x, y = (
        np.clip(x + middle, 0.0, GLYPH_SIDE - 1.001),
        np.clip(y + middle, 0.0, GLYPH_SIDE - 1.001),
    )
    left, top = x.astype(np.int32), y.astype(np.int32)
    fx, fy = x - left, y - top
    glyphs = scenes[0].theme.load()
    alpha = glyphs.alpha.reshape(len(glyphs.labels), -1)
    glyph = np.array([item.glyph for item in items])[:, None, None]
    corner = top * GLYPH_SIDE + left
    upper = alpha[glyph, corner] * (1 - fx) + alpha[glyph, corner + 1] * fx
    corner = corner + GLYPH_SIDE
    lower = alpha[glyph, corner] * (1 - fx) + alpha[glyph, corner + 1] * fx
    result: npt.NDArray[np.float32] = (upper * (1 - fy) + lower * fy).astype(np.float32)
    return result


def render(
    scenes: Sequence[Scene], *, warp: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.uint8]:
    """Render scenes of one theme.

    Args:
        scenes: B scenes.
        warp: Optional (items over all scenes, 4) float32: row-major 2 × 2 map from cell to glyph coordinates, with which
            training rotates, scales and shears the pictures. None leaves them as they are.

    Returns:
        (B, 96, 96, 3) uint8, RGB.
    """
    owner = np.repeat(np.arange(len(scenes)), [len(scene.items) for scene in scenes])
    items = [item for scene in scenes for item in scene.items]
    place = np.array([item.place for item in items])
    colour = np.array([COLOURS[item.colour] for item in items], np.float32)
    colour *= np.array([item.shade for item in items], np.float32)[:, None]
    canvas = np.array([scene.background for scene in scenes], np.float32)[:, None, None, :]
    canvas = canvas + _textures()[[scene.texture for scene in scenes]]
    cells = canvas.reshape(len(scenes), 3, CELL, 3, CELL, 3)
    ink = _ink(scenes, warp)[..., None]
    under = cells[owner, place // 3, :, place % 3]
    cells[owner, place // 3, :, place % 3] = under * (1 - ink) + colour[:, None, None, :] * ink
    pixels: npt.NDArray[np.uint8] = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return pixels
