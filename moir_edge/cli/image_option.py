"""`--max-image-pixels`: the same flag for every command that reads images."""

from __future__ import annotations

from typing import Annotated

import typer

from moir_edge.image_limit import limited_image_pixels
from moir_edge.limits import MAX_IMAGE_PIXELS, MOST_IMAGE_PIXELS

__all__ = ["MaxImagePixels"]


def _limit(context: typer.Context, pixels: int | None) -> int | None:
    """Keep the command and the processes that it starts to the limit until it is done."""
    if not context.resilient_parsing:
        context.with_resource(limited_image_pixels(pixels))
    return pixels


MaxImagePixels = Annotated[
    int | None,
    typer.Option(
        "--max-image-pixels",
        min=1,
        max=MOST_IMAGE_PIXELS,
        callback=_limit,
        help="Refuse images with more pixels, before they are decoded; by default "
        f"MOIR_EDGE_MAX_IMAGE_PIXELS, else {MAX_IMAGE_PIXELS} (4096 x 3072).",
    ),
]
