from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.image_transforms import convert_to_rgb

import moir_edge
from moir_edge.errors import DataError
from moir_edge.image_limit import IMAGE_PIXELS_VARIABLE, limited_image_pixels
from moir_edge.limits import MAX_IMAGE_PIXELS
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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * 10_000, r"^x{200} … x{100} cannot be read \(File name too long\); check the path$"),
        ("a\0b", r"cannot be read \(embedded null"),
        ("notes.txt/x.png", r"notes.txt/x.png cannot be read \(Not a directory\); check the path$"),
    ],
)
def test_names_that_no_file_can_have_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").touch()
    with pytest.raises(DataError, match=message):
        read_image(name)


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket has to be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s.png")
        with pytest.raises(DataError, match=r"s\.png is a pipe or a device, not an image file"):
            read_image("s.png")


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


FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "GIF"]


def _file(kind: str, *, size: tuple[int, int] = (20, 30), **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 10, 30)).save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_the_five_formats_are_read_up_to_the_limit(kind: str) -> None:
    data = _file(kind)
    assert read_image(data, max_pixels=600).size == (20, 30)
    with pytest.raises(
        DataError,
        match="has 20x30 pixels, more than 599; scale it down, or raise `max_image_pixels`",
    ):
        read_image(data, max_pixels=599)


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "ICO", "TGA", "PCX", "JPEG2000", "EPS"])
def test_other_formats_of_pillow_are_not_opened(kind: str) -> None:
    data = _file(kind, size=(32, 32))
    with pytest.raises(DataError, match="is not an image in PNG, JPEG, WebP, BMP or GIF; save it"):
        read_image(data)


def test_a_pillow_image_of_another_format_is_taken_once_it_is_loaded() -> None:
    image = Image.open(io.BytesIO(_file("TIFF")))
    with pytest.raises(
        DataError, match=r"was opened from a TIFF file; give a PNG, .* load it first"
    ):
        read_image(image)
    image.load()
    assert read_image(image).size == (20, 30)


def test_pillow_images_and_arrays_have_the_same_limit() -> None:
    for source in (Image.new("L", (20, 30)), np.zeros((30, 20), np.uint8)):
        with pytest.raises(DataError, match="the image in memory has 20x30 pixels, more than 599"):
            read_image(source, max_pixels=599)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_an_image_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=f"has {size[0]}x{size[1]} pixels; give an image that has"):
        read_image(Image.new("RGB", size))


def test_a_file_without_pixels_is_refused() -> None:
    data = bytearray(_file("BMP"))
    data[18:22] = bytes(4)
    with pytest.raises(DataError, match="the image in memory has 0x30 pixels; give an image that"):
        read_image(bytes(data))


def test_a_side_longer_than_any_photo_is_refused() -> None:
    assert read_image(Image.new("RGB", (65_535, 1))).size == (65_535, 1)
    for size in ((65_536, 1), (1, 65_536)):
        with pytest.raises(DataError, match="pixels, one side longer than 65535; crop it"):
            read_image(_file("PNG", size=size))


def test_a_view_of_an_array_is_refused_before_it_is_copied() -> None:
    view = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (1 << 20, 1 << 20, 3))
    with pytest.raises(DataError, match="has 1048576x1048576 pixels, more than 12582912"):
        read_image(view)


def test_a_file_with_more_bytes_than_its_pixels_can_take_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "padded.png"
    path.write_bytes(_file("PNG") + bytes(1_050_976 - len(_file("PNG"))))
    assert read_image(path, max_pixels=600).size == (20, 30)
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(
        DataError, match="has more than 1050976 bytes, the most for a file of up to 600 pixels"
    ):
        read_image(path, max_pixels=600)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe.png"
    os.mkfifo(path)
    for special in (path, Path("/dev/null")):
        with pytest.raises(DataError, match="is a pipe or a device, not an image file"):
            read_image(special)


def test_the_limit_of_the_process_holds_where_none_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (
        limited_image_pixels(599),
        pytest.raises(DataError, match="more than 599"),
    ):
        read_image(_file("PNG"))
    assert read_image(_file("PNG")).size == (20, 30)
    monkeypatch.setenv(IMAGE_PIXELS_VARIABLE, "many")
    with pytest.raises(DataError, match="MOIR_EDGE_MAX_IMAGE_PIXELS='many'; it must be at least 1"):
        read_image(_file("PNG"))


def test_a_model_has_its_own_limit(tiny_bundle: Path) -> None:
    model = moir_edge.load(tiny_bundle, max_image_pixels=599)
    with pytest.raises(DataError, match="has 20x30 pixels, more than 599"):
        model.encode("what?", _file("PNG"))
    assert model.encode("what?", _file("PNG", size=(20, 29))).pixel_values is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"max_image_pixels": 0},
            "max_image_pixels is 0; it must be at least 1 and at most 178956970",
        ),
        ({"max_image_pixels": 178_956_971}, "max_image_pixels is 178956971; it must be at least 1"),
        ({"max_image_pixels": 1e6}, r"max_image_pixels is 1000000.0 \(float\); it must be a whole"),
        (
            {"split_special_tokens": "off"},
            r"split_special_tokens is 'off' \(str\); it must be True",
        ),
    ],
)
def test_wrong_limits_and_switches_are_one_line(
    tiny_bundle: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        moir_edge.load(tiny_bundle, **options)


def test_pillows_own_limit_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # 600 pixels: over it, a warning only
    assert read_image(_file("PNG")).size == (20, 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="too large"):
        read_image(_file("PNG"))


def test_an_upright_rgb_image_is_not_copied() -> None:
    image = Image.new("RGB", (20, 30))
    assert read_image(image) is image


def test_an_image_in_a_mode_that_pillow_cannot_convert_is_one_line() -> None:
    with pytest.raises(DataError, match="a Pillow image of mode La, cannot be used"):
        read_image(Image.new("La", (2, 2)))


def test_reading_images_imports_no_other_plugins(tmp_path: Path) -> None:
    for kind in FORMATS:
        (tmp_path / kind).write_bytes(_file(kind))
    (tmp_path / "TIFF").write_bytes(_file("TIFF"))
    code = """
import sys
from pathlib import Path
from moir_edge.errors import DataError
from moir_edge.runtime.images import read_image
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_image(path)
    except DataError as error:
        print(error.args[0].partition(" is ")[2])
print(sorted(name for name in sys.modules if name in ("PIL.EpsImagePlugin", "PIL.FitsImagePlugin", "PIL.PdfImagePlugin")))
"""
    child = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    refusal, others = child.stdout.splitlines()
    assert refusal == "not an image in PNG, JPEG, WebP, BMP or GIF; save it as one of these"
    assert others == "[]"


def test_a_damaged_beginning_is_told_without_objects_of_python() -> None:
    for kind, start in (("PNG", 24), ("WEBP", 23)):  # the kind of pixels, the mark of a key frame
        data = bytearray(_file(kind))
        data[start : start + 3] = b"\xff\xff\xff"
        with pytest.raises(DataError) as caught:
            read_image(bytes(data))
        assert "<" not in str(caught.value)
        assert "damaged or truncated (" in str(caught.value)


_MEASURE = """
import resource, sys
from pathlib import Path
from moir_edge.runtime.images import read_image
for warm in sys.argv[2:]: read_image(Path(warm))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size = read_image(Path(sys.argv[1])).size
print(size[0] * size[1], (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize(
    ("kind", "mode", "options", "per_pixel"),
    [
        # 4 bytes for each pixel as decoded and again as RGB, and the compositing of a part.
        ("PNG", "RGBA", {}, 8),
        ("BMP", "RGBA", {}, 8),
        ("GIF", "P", {"transparency": 3}, 8),
        # The coefficients of four channels, 2 bytes each, and the decoded pixels.
        ("JPEG", "CMYK", {"progressive": True}, 12),
        # libwebp holds two canvases, Pillow two more copies.
        ("WEBP", "RGBA", {"lossless": True, "method": 0, "quality": 0}, 16),
    ],
    ids=["PNG", "BMP", "GIF", "JPEG", "WEBP"],
)
def test_the_largest_image_takes_less_than_300_megabytes(
    tmp_path: Path, kind: str, mode: str, options: dict[str, Any], per_pixel: int
) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    options = options if kind in ("BMP", "GIF") else options | {"exif": turned}
    paths = tmp_path / "large", tmp_path / "small"
    for path, size in zip(paths, ((4096, 3072), (8, 8)), strict=True):
        Image.new(mode, size, 7).save(path, format=kind, **options)
    child = subprocess.run(
        [sys.executable, "-c", _MEASURE, *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
    )
    pixels, peak = map(int, child.stdout.split())
    assert pixels == MAX_IMAGE_PIXELS
    assert peak < 300e6
    # A tenth for what does not grow with the pixels: decoder tables, the allocator.
    assert peak < 1.1 * per_pixel * pixels + 20e6


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_arrays_of_another_kind_are_refused(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(DataError, match="must be uint8"):
        read_image(array)


def test_open_files_and_buffers_are_images(tmp_path: Path) -> None:
    expected = Image.fromarray(_noise(9, 7, 3))
    path = tmp_path / "a.png"
    expected.save(path)
    content = path.read_bytes()
    with path.open("rb") as stream, path.open("rb", buffering=0) as raw:
        for source in (bytearray(content), memoryview(content), io.BytesIO(content), stream, raw):
            assert read_image(source).tobytes() == expected.tobytes()  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"cannot be read \(.*closed file.*\); open the file again"):
        read_image(stream)  # type: ignore[arg-type]
    with path.open() as text, pytest.raises(DataError):
        read_image(text)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"open for reading bytes, as by open\(path, 'rb'\)"):
        read_image(io.StringIO("x"))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="is not an image in PNG"):
        read_image(io.BytesIO(b""))


def test_an_endless_stream_is_read_to_the_limit() -> None:
    class Endless(io.RawIOBase):
        given = 0

        def read(self, size: int = -1, /) -> bytes:
            Endless.given += min(size, 1 << 16)
            return bytes(min(size, 1 << 16))

    with pytest.raises(DataError, match="has more than"):
        read_image(Endless(), max_pixels=1000)  # type: ignore[arg-type]
    assert Endless.given < 1 << 21


@pytest.mark.parametrize("value", [3, None, {}, object(), b"x".decode, io.BytesIO])
def test_what_is_not_an_image_is_named(value: Any) -> None:
    with pytest.raises(DataError, match="it must be a path, bytes, an open binary file, a Pillow"):
        read_image(value)
