"""Files of five kinds, read without what surrounds their pixels, against Pillow on the whole file."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin
from transformers.image_transforms import convert_to_rgb

from moir_edge.errors import DataError
from moir_edge.limits import BMP_RUNS_PIXELS, GIF_HEAD_BYTES, IMAGE_PARTS, JPEG_SCANS
from moir_edge.runtime.image_files import contained
from moir_edge.runtime.images import read_image

NOTE = b"a note of the camera's maker, " * 400
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def _picture(mode: str = "RGB", size: tuple[int, int] = (23, 17)) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.arange(391, dtype=np.uint16).reshape(17, 23))
    levels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    image = Image.fromarray(levels)
    return image.quantize(60) if mode == "P" else image.convert(mode)


def _saved(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    _picture(mode).save(buffer, format=kind, **options)
    return buffer.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "maker" * 50
    exif[0x0112] = orientation
    return exif


def _png_text(key: str, text: str, **options: Any) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "words " * 300, zip=True)
    (info.add_itxt if key.startswith("XML") else info.add_text)(key, text, **options)
    return info


def _frames(count: int) -> dict[str, Any]:
    return {"save_all": True, "append_images": [_picture().rotate(90)] * count, "duration": 40}


def _hex_profile() -> str:
    data = _exif(8).tobytes()
    return f"\nexif\n{len(data):8}\n{data.hex()}\n"


def _read(data: bytes) -> tuple[Image.Image | None, str]:
    """Return the image, or the text of the refusal."""
    try:
        return read_image(data, max_pixels=1 << 20), ""
    except DataError as error:
        return None, str(error)


FILES = {
    "png": _saved("PNG"),
    "png, alpha": _saved("PNG", "RGBA"),
    "png, palette with transparency": _saved("PNG", "P", transparency=bytes(range(0, 240, 4))),
    "png, grey with a transparent level": _saved("PNG", "L", transparency=77),
    "png, 16 bits": _saved("PNG", "I;16"),
    "png, animated": _saved("PNG", **_frames(2)),
    "png, animated, default image apart": _saved("PNG", default_image=True, **_frames(2)),
    "png, profile": _saved("PNG", icc_profile=NOTE),
    **{f"png, exif {n}": _saved("PNG", exif=_exif(n)) for n in (3, 6)},
    "png, xmp": _saved("PNG", pnginfo=_png_text("XML:com.adobe.xmp", XMP.decode())),
    "png, xmp, deflated": _saved(
        "PNG", pnginfo=_png_text("XML:com.adobe.xmp", XMP.decode(), zip=True)
    ),
    "png, exif as text": _saved("PNG", pnginfo=_png_text("Raw profile type exif", _hex_profile())),
    "png, exif as text, deflated": _saved(
        "PNG", pnginfo=_png_text("Raw profile type exif", _hex_profile(), zip=True)
    ),
    "jpeg": _saved("JPEG"),
    "jpeg, grey": _saved("JPEG", "L"),
    "jpeg, four colours": _saved("JPEG", "CMYK"),
    "jpeg, progressive, 4:4:4": _saved("JPEG", progressive=True, subsampling=0),
    "jpeg, rgb kept": _saved("JPEG", keep_rgb=True),
    "jpeg, profile and comment": _saved("JPEG", icc_profile=NOTE * 20, comment=NOTE),
    **{f"jpeg, exif {n}": _saved("JPEG", exif=_exif(n)) for n in range(1, 9)},
    "jpeg, xmp": _saved("JPEG", xmp=XMP),
    "jpeg, two pictures": _saved("MPO", save_all=True, append_images=[_picture().rotate(90)]),
    "webp": _saved("WEBP"),
    "webp, lossless": _saved("WEBP", "RGBA", lossless=True),
    "webp, alpha": _saved("WEBP", "RGBA"),
    "webp, exif and profile": _saved("WEBP", exif=_exif(5), icc_profile=NOTE),
    "webp, alpha, xmp": _saved("WEBP", "RGBA", xmp=XMP),
    "webp, animated": _saved("WEBP", **_frames(3)),
    "webp, animated, exif": _saved("WEBP", exif=_exif(3), **_frames(3)),
    "bmp": _saved("BMP"),
    "bmp, palette": _saved("BMP", "P"),
    "bmp, one bit": _saved("BMP", "1"),
    "gif": _saved("GIF", "P"),
    "gif, transparent, comment": _saved("GIF", "P", transparency=3, comment=NOTE),
    "gif, animated": _saved("GIF", "P", loop=0, disposal=2, **_frames(3)),
}


@pytest.mark.parametrize("name", FILES)
def test_the_pixels_are_those_that_pillow_reads_from_the_whole_file(name: str) -> None:
    data = FILES[name]
    whole = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    expected = convert_to_rgb(whole, return_numpy=True)
    np.testing.assert_array_equal(np.asarray(read_image(data)), expected)


@pytest.mark.parametrize("name", FILES)
def test_nothing_but_pixels_reaches_pillow(name: str) -> None:
    found = contained(FILES[name])
    assert found is not None
    assert NOTE[:60] not in found.content
    assert b"maker" not in found.content
    assert b"tiff:Orientation" not in found.content
    with Image.open(io.BytesIO(found.content)) as image:
        image.load()
        assert image.size == (found.width, found.height) == (23, 17)
        assert getattr(image, "n_frames", 1) == 1 or found.format == "GIF"
        assert not {"exif", "xmp", "icc_profile", "comment", "Comment"} & image.info.keys()


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("bmp")])
def test_a_file_cut_off_anywhere_is_read_or_refused_in_one_line(name: str) -> None:
    data = FILES[name]
    for end in range(0, len(data), max(1, len(data) // 60)):
        image, refusal = _read(data[:end])
        assert sorted(image.size) == [17, 23] if image else refusal.count("\n") == 0


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"II",
        b"II*\0\xff\xff\xff\x7f",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"XX*\0\x08\0\0\0",
        b"\0" * 40,
    ],
)
def test_damaged_exif_means_upright(exif: bytes) -> None:
    for kind in ("PNG", "WEBP"):
        assert read_image(_saved(kind, exif=b"Exif\0\0" + exif)).size == (23, 17)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_more_parts_than_a_file_has_are_refused() -> None:
    data = _saved("PNG")
    many = data[:33] + _chunk(b"prVt", b"") * IMAGE_PARTS + data[33:]
    with pytest.raises(DataError, match=rf"truncated \(it has more than {IMAGE_PARTS} parts\)"):
        read_image(many)
    assert read_image(data[:33] + _chunk(b"prVt", b"") * 1000 + data[33:]).size == (23, 17)


def test_more_scans_than_a_picture_has_are_refused() -> None:
    data = _saved("JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    with pytest.raises(DataError, match=rf"it has more than {JPEG_SCANS} scans"):
        read_image(data[:last] + scan * (JPEG_SCANS + 1) + data[-2:])


def test_what_follows_the_picture_of_a_jpeg_file_is_no_scan() -> None:
    data = _saved("JPEG", progressive=True) + b"\xff\xda\x00\x04" * 500
    assert read_image(data).size == (23, 17)


def test_a_long_head_of_a_gif_file_is_refused() -> None:
    data = FILES["gif, transparent, comment"]
    start = data.index(b"!\xfe")
    long = b"!\xfe" + (b"\xff" + bytes(255)) * (GIF_HEAD_BYTES // 256 + 4) + b"\0"
    with pytest.raises(DataError, match=f"more than {GIF_HEAD_BYTES} bytes before its picture"):
        read_image(data[:start] + long + data[start:])


def test_a_gif_frame_over_the_edge_counts_with_what_it_adds() -> None:
    data = bytearray(FILES["gif"])
    struct.pack_into("<HH", data, 6, 5, 4)
    with pytest.raises(DataError, match="has 23x17 pixels, more than 390"):
        read_image(bytes(data), max_pixels=390)
    assert read_image(bytes(data)).size == (23, 17)


def test_the_canvas_of_a_webp_file_counts_before_anything_is_decoded() -> None:
    data = bytearray(FILES["webp, animated"])
    data[24:30] = b"\xff\x3f\x00\xff\x3f\x00"
    with pytest.raises(DataError, match="has 16384x16384 pixels, more than 12582912"):
        read_image(bytes(data))


def _runs(width: int, height: int, body: bytes) -> bytes:
    palette = bytes(range(256)) * 4
    head = struct.pack(
        "<2sIHHIIiiHHIIiiII", b"BM", 0, 0, 0, 54 + 1024, 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0
    )
    return head + palette + body


def test_bmp_files_of_runs_are_read_up_to_a_million_pixels() -> None:
    body = (b"\x17\x05" + b"\0\0") * 17 + b"\0\1"
    assert read_image(_runs(23, 17, body)).size == (23, 17)
    with pytest.raises(DataError, match=f"runs of colours, which are read up to {BMP_RUNS_PIXELS}"):
        read_image(_runs(BMP_RUNS_PIXELS, 2, body))


@pytest.mark.parametrize("name", ["png", "jpeg", "webp", "bmp", "gif"])
def test_random_damage_is_read_or_refused_in_one_line(name: str) -> None:
    rng = np.random.default_rng(7)
    data = np.frombuffer(FILES[name], np.uint8)
    for _ in range(150):
        damaged = data.copy()
        places = rng.integers(0, min(len(data), 120), size=3)
        damaged[places] = rng.integers(0, 256, size=3)
        image, refusal = _read(damaged.tobytes())
        assert image.mode == "RGB" if image else refusal.count("\n") == 0
