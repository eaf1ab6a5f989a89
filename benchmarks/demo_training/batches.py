"""Training batches in numpy: augmented scenes, cell labels, and packed question-answer sequences, made in a worker."""

from __future__ import annotations

import multiprocessing
import queue
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from moir_edge.children import outside_current_folder
from moir_edge.demo.scenes import COLOURS, SIZES, Scene, render, sample_scene
from moir_edge.demo.theme import DIGITS, Theme

__all__ = [
    "Augmentation",
    "VisionBatch",
    "augmented_pixels",
    "cell_labels",
    "stream",
    "vision_batches",
]

_COLOUR_INDEX = {name: index + 1 for index, name in enumerate(COLOURS)}
_SIZE_INDEX = {name: index + 1 for index, name in enumerate(SIZES)}


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Strength of the augmentation of training images.

    Attributes:
        rotation_deg: Largest rotation of a digit.
        stretch: Largest relative change of a digit's width and height.
        shear: Largest shear of a digit.
        noise_share: Share of images with Gaussian pixel noise.
        blur_share: Share of images with Gaussian blur.
        blur_sigma_px: Largest blur.
    """

    rotation_deg: float = 12.0
    stretch: float = 0.13
    shear: float = 0.15
    noise_share: float = 0.25
    blur_share: float = 0.1
    blur_sigma_px: float = 3.0


@dataclass(frozen=True, kw_only=True)
class VisionBatch:
    """Images and what each 3 × 3 cell holds.

    Attributes:
        pixels: (batch, 96, 96, 3) uint8.
        labels: (batch, 9, 3) int64: digit + 1, colour index + 1 and size index + 1; 0 is an empty cell.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


def _warps(
    rng: np.random.Generator, count: int, augmentation: Augmentation
) -> npt.NDArray[np.float32]:
    angle = np.deg2rad(rng.uniform(-1, 1, count) * augmentation.rotation_deg)
    wide, high = np.exp(rng.uniform(-1, 1, (2, count)) * augmentation.stretch)
    shear = rng.uniform(-1, 1, count) * augmentation.shear
    cos, sin = np.cos(angle), np.sin(angle)
    rows = np.stack([cos * wide, (-sin + shear) * wide, sin * high, cos * high], axis=1)
    result: npt.NDArray[np.float32] = rows.astype(np.float32)
    return result


def blurred(pixels: npt.NDArray[np.uint8], sigma_px: float) -> npt.NDArray[np.uint8]:
    """Blur one (96, 96, 3) image with a Gaussian of the given standard deviation."""
    image = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma_px))
    result: npt.NDArray[np.uint8] = np.asarray(image)
    return result


def augmented_pixels(
    scenes: Sequence[Scene], rng: np.random.Generator, augmentation: Augmentation
) -> npt.NDArray[np.uint8]:
    """Render scenes with warped digits, noise, brightness changes and some blur: (batch, 96, 96, 3)."""
    count = sum(len(scene.items) for scene in scenes)
    pixels = render(scenes, warp=_warps(rng, count, augmentation))
    for index in np.flatnonzero(rng.random(len(scenes)) < augmentation.noise_share):
        noisy = pixels[index] * rng.uniform(0.8, 1.15)
        noisy = noisy + rng.normal(0.0, rng.uniform(1.0, 14.0), noisy.shape)
        pixels[index] = np.clip(noisy, 0, 255).astype(np.uint8)
    for index in np.flatnonzero(rng.random(len(scenes)) < augmentation.blur_share):
        pixels[index] = blurred(pixels[index], rng.uniform(0.4, augmentation.blur_sigma_px))
    return pixels


def cell_labels(scenes: Sequence[Scene]) -> npt.NDArray[np.int64]:
    """Return what every cell holds, as `VisionBatch.labels` defines it."""
    labels = np.zeros((len(scenes), 9, 3), np.int64)
    for index, scene in enumerate(scenes):
        for item in scene.items:
            values = (item.digit + 1, _COLOUR_INDEX[item.colour], _SIZE_INDEX[item.size])
            labels[index, item.place] = values
    return labels


def vision_batches(
    *, seed: int, batch: int, crowded: float, theme: Theme = DIGITS
) -> Iterator[VisionBatch]:
    """Yield endless batches for the vision stage; `crowded` is the share of scenes with four to nine pictures."""
    rng, pixel_rng = random.Random(seed), np.random.default_rng(seed)
    while True:
        counts = [rng.randint(4, 9) if rng.random() < crowded else None for _ in range(batch)]
        scenes = [sample_scene(rng, "train", count=count, theme=theme) for count in counts]
        pixels = augmented_pixels(scenes, pixel_rng, Augmentation())
        yield VisionBatch(pixels=pixels, labels=cell_labels(scenes))


def _produce(make: Callable[..., Iterator[Any]], settings: dict[str, Any], out: Any) -> None:
    for item in make(**settings):
        out.put(item)


def stream(make: Callable[..., Iterator[Any]], *, ahead: int = 6, **settings: Any) -> Iterator[Any]:
    """Run a batch generator in a worker process, so that rendering overlaps with training.

    Args:
        make: A module-level generator function.
        ahead: Batches prepared in advance.
        **settings: Keyword arguments of `make`.

    Raises:
        RuntimeError: The worker ended.
    """
    context = multiprocessing.get_context("spawn")
    with outside_current_folder():
        out = context.Queue(maxsize=ahead)
        worker = context.Process(target=_produce, args=(make, settings, out), daemon=True)
        worker.start()
    try:
        while True:
            try:
                yield out.get(timeout=60)
            except queue.Empty:
                if not worker.is_alive():
                    raise RuntimeError("the batch worker ended; see its message above") from None
    finally:
        worker.terminate()
