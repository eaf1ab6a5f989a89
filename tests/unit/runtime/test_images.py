from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.image_transforms import convert_to_rgb

from moir_edge.errors import DataError
from moir_edge.runtime.images import read_image


def _noise(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _palette_with_transparency() -> Image.Image:
    image = Image.fromarray(_noise(9, 7) % 4).convert("P")
    image.info["transparency"] = 2
    return image


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(_noise(9, 7, 3)),
        Image.fromarray(_noise(9, 7, 4)),
        Image.fromarray(_noise(9, 7)),
        Image.fromarray(_noise(9, 7, 2), mode=None).convert("LA"),
        Image.fromarray(_noise(9, 7, 3)).convert("P"),
        _palette_with_transparency(),
        Image.fromarray(_noise(9, 7) > 99),
        Image.fromarray(_noise(9, 7, 3)).convert("CMYK"),
    ],
    ids=["RGB", "RGBA", "L", "LA", "P", "P with transparency", "1", "CMYK"],
)
def test_every_mode_becomes_the_rgb_that_transformers_makes(image: Image.Image) -> None:
    expected = convert_to_rgb(image, return_numpy=True)
    np.testing.assert_array_equal(np.asarray(read_image(image)), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((4, 6, 3), np.uint8)
    upright[0, 0] = 255  # one white corner tells every orientation apart
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(turn(upright))).save(path, exif=exif)
    np.testing.assert_array_equal(np.asarray(read_image(path)), upright)


def test_paths_bytes_and_arrays_give_the_same(tmp_path: Path) -> None:
    array = _noise(5, 8, 3)
    path = tmp_path / "image.png"
    Image.fromarray(array).save(path)
    for source in (path, str(path), path.read_bytes(), array, Image.fromarray(array)):
        np.testing.assert_array_equal(np.asarray(read_image(source)), array)
    grey = _noise(5, 8, 1)
    np.testing.assert_array_equal(np.asarray(read_image(grey)), np.repeat(grey, 3, axis=2))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.png: no such image file"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(DataError, match="is a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_truncated_image_is_refused(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(_noise(60, 60, 3)).save(buffer, format=kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(DataError, match="damaged or truncated") as raised:
        read_image(path)
    assert path.name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_other_files_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("not pixels")
    with pytest.raises(DataError, match="not an image"):
        read_image(path)
    with pytest.raises(DataError, match="the image in memory is not an image"):
        read_image(b"")


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    Image.fromarray(_noise(20, 20, 3)).save(path)
    monkeypatch.setattr(
        Image, "MAX_IMAGE_PIXELS", 300
    )  # 400 pixels: over the limit, a warning only
    assert read_image(path).size == (20, 20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="too large"):
        read_image(path)


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_arrays_of_another_kind_are_refused(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(DataError, match="must be uint8"):
        read_image(array)
