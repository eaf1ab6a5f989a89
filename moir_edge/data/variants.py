"""Other versions of the data rows: degraded, blanked, or with one modality taken from another row."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from moir_edge.data.degradations import Degradation
from moir_edge.data.rows import Row, naming
from moir_edge.errors import EnvironmentProblem
from moir_edge.runtime.images import read_image

__all__ = ["ImageStore", "Variant", "degraded_rows", "permuted_rows"]


@dataclass(frozen=True)
class Variant:
    """Rows that replace the data rows one by one; answers are scored against the data rows.

    Attributes:
        rows: As many as there are data rows, in their order.
        strengths: Least and largest strength that was applied; None where there is none.
    """

    rows: tuple[Row, ...]
    strengths: tuple[float, float] | None = None


class ImageStore:
    """Keeps changed images as PNG files named by their content, so that equal images share one file.

    Args:
        folder: An existing folder, which the caller removes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: set[Path] = set()

    def put(self, image: Image.Image) -> Path:
        """Return the file of an RGB image, writing it if it is new.

        Raises:
            EnvironmentProblem: The disk is full or not writable.
        """
        digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
        path = self._folder / f"{digest[:32]}.png"
        try:
            if path not in self._written:  # one that a killed process left may be incomplete
                image.save(path, compress_level=1)
                self._written.add(path)
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot write a degraded image to {self._folder}: {error.strerror or error}; "
                "free some space, or set TMPDIR to a folder with more"
            ) from error
        return path


def degraded_rows(
    rows: Sequence[Row], degradation: Degradation, store: ImageStore, *, seed: int
) -> Variant:
    """Degrade every row; what the degradation is not about stays as it is.

    Args:
        rows: The data rows.
        degradation: What to do.
        store: Takes the changed images.
        seed: Seed of noise and dropout. The draws of a row depend on the seed, the kind and the row only: a higher
            strength drops the same words and more, and every model sees the same rows.
    """
    if degradation.kind.row_effect is not None:
        return Variant(tuple(map(degradation.kind.row_effect, rows)))
    if degradation.kind.text_effect is not None:
        changed = tuple(_degraded_text(row, degradation, seed) for row in rows)
        strengths = [degradation.strength()]
    else:
        images = _ChangedImages(degradation, store, seed)
        changed = tuple(images.in_row(row) for row in rows)
        strengths = images.strengths
    if degradation.kind.quantity is None:
        return Variant(changed)
    return Variant(changed, (min(strengths), max(strengths)))


def permuted_rows(rows: Sequence[Row], *, seed: int) -> dict[int, tuple[Row, Row]]:
    """Give every row the images, and the words, of another row of the same task and number of images.

    Args:
        rows: The data rows.
        seed: Seed of the permutations, which differ for images and words.

    Returns:
        Index of the data row -> the row with foreign images, the row with foreign words; rows that are alone with
        their task and number of images are left out.
    """
    groups: dict[tuple[str, int], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault((row.task, len(row.images)), []).append(index)
    permuted: dict[int, tuple[Row, Row]] = {}
    for (task, images), own in sorted(groups.items()):
        if len(own) < 2:
            continue
        from_image = _derangement(own, f"{seed}:image:{task}:{images}")
        from_text = _derangement(own, f"{seed}:text:{task}:{images}")
        for index in own:
            row, image, text = rows[index], rows[from_image[index]], rows[from_text[index]]
            permuted[index] = (
                dataclasses.replace(row, images=image.images),
                dataclasses.replace(row, context=text.context, prompt=text.prompt),
            )
    return dict(sorted(permuted.items()))


class _ChangedImages:
    """Degrades every image file once, however many rows show it."""

    def __init__(self, degradation: Degradation, store: ImageStore, seed: int) -> None:
        self.strengths: list[float] = []
        self._degradation, self._store, self._seed = degradation, store, seed
        self._done: dict[Path, Path] = {}

    def in_row(self, row: Row) -> Row:
        """Return a row with degraded images."""
        with naming(row):
            return dataclasses.replace(row, images=tuple(map(self._of, row.images)))

    def _of(self, path: Path) -> Path:
        if path not in self._done:
            self._done[path] = self._changed(path)
        return self._done[path]

    def _changed(self, path: Path) -> Path:
        image, kind = read_image(path), self._degradation.kind
        strength = self._degradation.strength(min(image.size))
        self.strengths.append(strength)
        key = f"{self._seed}:{kind.name}:{path.name}".encode()
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:8], "little"))
        if kind.image_effect is None:
            raise ValueError(f"{kind.name} does not change images")
        return self._store.put(kind.image_effect(image, strength, rng))


def _degraded_text(row: Row, degradation: Degradation, seed: int) -> Row:
    effect, strength = degradation.kind.text_effect, degradation.strength()
    if effect is None:
        raise ValueError(f"{degradation.kind.name} does not change text")

    def changed(text: str, field: str) -> str:
        rng = random.Random(f"{seed}:{degradation.kind.name}:{row.id}:{field}")
        return effect(text, strength, rng)

    context = changed(row.context, "context") if row.context else None
    return dataclasses.replace(row, context=context or None, prompt=changed(row.prompt, "prompt"))


def _derangement(indices: Sequence[int], seed: str) -> dict[int, int]:
    """Map every index to another one, along one random cycle through all of them."""
    order = list(indices)
    random.Random(seed).shuffle(order)
    return dict(zip(order, [*order[1:], order[0]], strict=True))
