"""Draw the icons of `drawings.npz` from the fonts that QtAwesome ships; needed only to make that file again.

Needs the fonts on disk: ``pip install --no-deps qtawesome==1.4.2``. No part of Qt is used.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from benchmarks.common import Result, new_parser, run
from benchmarks.icons.theme import DRAWINGS, NAMES, SIDE
from moir_edge.errors import DataError, EnvironmentProblem
from moir_edge.progress import Progress
from moir_edge.whole_files import write_whole

__all__ = ["ICONS", "draw_icons", "main"]

_FONTS = {
    "codicon": ("codicon-0.0.36.ttf", "codicon-charmap-0.0.36.json"),
    "elusive": ("elusiveicons-webfont-2.0.ttf", "elusiveicons-webfont-charmap-2.0.json"),
    "fa": ("fontawesome6-solid-webfont-6.7.2.ttf", "fontawesome6-solid-webfont-charmap-6.7.2.json"),
    "fa-regular": (
        "fontawesome6-regular-webfont-6.7.2.ttf", "fontawesome6-regular-webfont-charmap-6.7.2.json",
    ),
    "mdi": ("materialdesignicons6-webfont-6.9.96.ttf", "materialdesignicons6-webfont-charmap-6.9.96.json"),
    "phosphor": ("phosphor-1.3.0.ttf", "phosphor-charmap-1.3.0.json"),
    "remix": ("remixicon-2.5.0.ttf", "remixicon-charmap-2.5.0.json"),
}  # fmt: skip

ICONS: dict[str, dict[str, str]] = {
    "anchor": {
        "fa": "anchor", "mdi": "anchor", "remix": "anchor-fill anchor-line",
        "phosphor": "anchor anchor-bold anchor-fill anchor-simple anchor-simple-bold anchor-simple-fill",
    },
    "bell": {
        "codicon": "bell", "elusive": "bell", "fa": "bell", "fa-regular": "bell", "remix": "notification-3-fill notification-3-line",
        "mdi": "bell bell-outline",
        "phosphor": "bell bell-bold bell-fill bell-simple bell-simple-bold bell-simple-fill",
    },
    "car": {
        "elusive": "car", "fa": "car", "mdi": "car", "remix": "car-fill car-line",
        "phosphor": "car car-bold car-fill car-simple car-simple-bold car-simple-fill",
    },
    "cloud": {
        "codicon": "cloud", "elusive": "cloud", "fa": "cloud", "mdi": "cloud cloud-outline",
        "phosphor": "cloud cloud-bold cloud-fill", "remix": "cloud-fill cloud-line",
    },
    "flag": {
        "elusive": "flag", "fa": "flag", "fa-regular": "flag", "phosphor": "flag flag-bold flag-fill",
        "mdi": "flag flag-outline flag-variant flag-variant-outline",
        "remix": "flag-fill flag-line flag-2-fill flag-2-line",
    },
    "heart": {
        "codicon": "heart heart-filled", "elusive": "heart heart-empty", "fa": "heart", "fa-regular": "heart",
        "mdi": "heart heart-outline cards-heart cards-heart-outline", "remix": "heart-fill heart-line",
        "phosphor": "heart heart-bold heart-fill heart-straight heart-straight-bold heart-straight-fill",
    },
    "key": {
        "codicon": "key", "elusive": "key", "fa": "key", "mdi": "key key-outline key-variant",
        "phosphor": "key key-bold key-fill", "remix": "key-fill key-line key-2-fill key-2-line",
    },
    "leaf": {
        "elusive": "leaf", "fa": "leaf", "mdi": "leaf", "phosphor": "leaf leaf-bold leaf-fill",
        "remix": "leaf-fill leaf-line",
    },
    "moon": {
        "fa": "moon", "fa-regular": "moon", "mdi": "moon-waning-crescent weather-night",
        "phosphor": "moon moon-bold moon-fill", "remix": "moon-fill moon-line moon-clear-fill moon-clear-line",
    },
    "star": {
        "codicon": "star-full star-empty", "elusive": "star star-empty", "fa": "star", "fa-regular": "star",
        "mdi": "star star-outline", "phosphor": "star star-bold star-fill",
        "remix": "star-fill star-line star-s-fill star-s-line",
    },
}  # fmt: skip
"""Name -> font -> the font's icons that show it."""

_LARGE_PX = 256
_FILLED = 0.92
"""Share of the square's side that the longer side of an icon takes."""


def draw_icons(fonts: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Draw every icon.

    Args:
        fonts: QtAwesome's folder of fonts.

    Returns:
        (drawings, `SIDE`, `SIDE`) uint8 ink, and (drawings,) int64 labels, which number `NAMES`.

    Raises:
        DataError: A font lacks an icon.
    """
    drawings, labels = [], []
    for label, name in enumerate(NAMES):
        for font, icons in ICONS[name].items():
            file, table = _FONTS[font]
            points = json.loads((fonts / table).read_text())
            face = ImageFont.truetype(fonts / file, _LARGE_PX)
            for icon in icons.split():
                if icon not in points:
                    raise DataError(f"{table} has no icon {icon!r}; use QtAwesome 1.4.2")
                drawings.append(_drawn(face, chr(int(points[icon], 16))))
                labels.append(label)
    return np.stack(drawings), np.array(labels, np.int64)


def _drawn(face: ImageFont.FreeTypeFont, character: str) -> npt.NDArray[np.uint8]:
    """Draw one character, cut out its ink and centre it on a square, proportions kept."""
    canvas = Image.new("L", (3 * _LARGE_PX, 3 * _LARGE_PX))
    ImageDraw.Draw(canvas).text((_LARGE_PX, _LARGE_PX), character, fill=255, font=face)
    ink = canvas.crop(canvas.getbbox())
    scale = _FILLED * SIDE / max(ink.size)
    width, height = (max(1, round(scale * size)) for size in ink.size)
    square = Image.new("L", (SIDE, SIDE))
    small = ink.resize((width, height), Image.Resampling.LANCZOS)
    square.paste(small, ((SIDE - width) // 2, (SIDE - height) // 2))
    drawn: npt.NDArray[np.uint8] = np.asarray(square)
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, write the file and return the exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("icons.draw", __doc__, writes_json=False)
    parser.add_argument("-o", "--output", dest="file", type=Path, default=DRAWINGS)
    return run(parser, _run, arguments)


def _run(options: argparse.Namespace, progress: Progress) -> Result:
    del progress
    package = importlib.util.find_spec("qtawesome")  # its import would ask for Qt
    if package is None or package.origin is None:
        raise EnvironmentProblem(
            "the fonts are not installed: pip install --no-deps qtawesome==1.4.2"
        )
    drawings, labels = draw_icons(Path(package.origin).parent / "fonts")
    packed = io.BytesIO()
    np.savez_compressed(packed, drawings=drawings, labels=labels)
    write_whole(options.file, packed.getvalue())
    return Result(text=f"{len(drawings)} drawings of {len(NAMES)} icons in {options.file}")


if __name__ == "__main__":
    sys.exit(main())
