"""Image files with altered headers: sizes, depths, chunks and frames, with check sums that fit again."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

from PIL import Image

__all__ = [
    "FOREIGN",
    "FORMATS",
    "altered_header",
    "large_picture",
    "moving_picture",
    "small_picture",
]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""Formats that moir-edge reads."""

FOREIGN = (
    "TIFF",
    "PPM",
    "ICO",
    "TGA",
    "PCX",
    "DDS",
    "SGI",
    "EPS",
    "PDF",
    "ICNS",
    "JPEG2000",
    "MSP",
    "SPIDER",
    "XBM",
)
"""Formats that Pillow writes and moir-edge does not read."""

_MODES = {
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "JPEG": ("RGB", "L", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("RGB", "L", "1", "P", "RGBA"),
    "GIF": ("P", "L", "RGB", "1"),
}
_SIZES = (0, 1, 2, 255, 4096, 16_384, 65_500, 2**16, 10**6, 2**31 - 1, 2**32 - 1)


def small_picture(rng: random.Random, kind: str) -> bytes:
    """Return a whole file of up to 80 × 80 pixels in one of the modes of its format."""
    size = (rng.randint(1, 80), rng.randint(1, 80))
    mode = rng.choice(_MODES.get(kind, ("RGB", "L")))
    if mode == "I;16":
        image = Image.frombytes(mode, size, rng.randbytes(size[0] * size[1] * 2))
    else:
        image = Image.effect_noise(size, 40).convert(mode)
    more: dict[str, Any] = {}
    if kind in ("PNG", "WEBP", "JPEG") and rng.random() < 0.4:
        exif = Image.Exif()
        exif[0x0112] = rng.choice((1, 3, 6, 8, 0, 9, 65_535))
        more["exif"] = exif.tobytes()
    if kind == "PNG" and mode == "P":
        more["transparency"] = rng.choice((0, 255))
    return _saved(image, kind, more)


def moving_picture(rng: random.Random) -> tuple[bytes, str]:
    """Return an animation in one of the formats that have them."""
    kind = rng.choice(("GIF", "WEBP", "PNG"))
    frames = rng.choice((2, 5, 200))
    first, *others = (
        Image.new("RGB", (rng.randint(20, 24), 20), (at % 256, 0, 0)) for at in range(frames)
    )
    more = {"save_all": True, "append_images": [one.resize(first.size) for one in others]}
    return _saved(first, kind, more), f"{kind} of {frames} frames"


def large_picture(rng: random.Random) -> tuple[bytes, str]:
    """Return a small file of very many pixels, whole and valid."""
    side = rng.choice((4000, 9000, 16_000, 30_000))
    width, height = rng.choice(
        ((side, side), (side * 2, side // 2), (65_000, side // 100), (20, 65_000))
    )
    kind, depth = rng.choice(((0, 1), (0, 8), (3, 1), (6, 8), (2, 16)))
    while width * height > 1 << 29:
        width, height = width // 2, height // 2
    bits = {0: 1, 3: 1, 6: 4, 2: 3}[kind] * depth
    packer = zlib.compressobj(1)
    row = b"\0" + bytes((width * bits + 7) // 8)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))]
    chunks += [(b"PLTE", bytes(6))] if kind == 3 else []
    chunks += [(b"IDAT", packed), (b"IEND", b"")]
    return _png(chunks), f"PNG of {width} × {height}, {depth} bits, kind {kind}"


def altered_header(rng: random.Random, kind: str) -> tuple[bytes, str]:
    """Return a small file whose header says something else than its data."""
    content = small_picture(rng, kind)
    return _HEADERS[kind](rng, content)


def _alter_png(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    chunks = _png_chunks(content)
    way = rng.choice(("size", "depth", "drop", "twice", "text", "order", "length", "icc"))
    if way == "size":
        sizes = (rng.choice(_SIZES), rng.choice(_SIZES))
        chunks[0] = (b"IHDR", struct.pack(">II", *sizes) + chunks[0][1][8:])
        way = f"size {sizes}"
    elif way == "depth":
        chunks[0] = (b"IHDR", chunks[0][1][:8] + rng.randbytes(5))
    elif way == "drop":
        del chunks[rng.randrange(len(chunks))]
    elif way == "twice":
        chunks.insert(1, rng.choice(chunks))
    elif way == "order":
        rng.shuffle(chunks)
    elif way == "length":
        at = rng.randrange(len(content) - 8)
        return content[:at] + struct.pack(">I", rng.choice(_SIZES)) + content[at + 4 :], "length"
    else:
        packed = zlib.compress(bytes(rng.choice((1000, 10**6, 10**8))))
        name = b"iCCP" if way == "icc" else rng.choice((b"zTXt", b"iTXt", b"eXIf"))
        chunks.insert(1, (name, b"note\0\0" + packed))
    return _png(chunks), f"PNG {way}"


def _alter_jpeg(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    at = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
    sizes = (rng.choice(_SIZES) & 0xFFFF, rng.choice(_SIZES) & 0xFFFF)
    way = rng.choice(("size", "planes", "marker", "twice"))
    if way == "size":
        return content[: at + 5] + struct.pack(">HH", *sizes) + content[
            at + 9 :
        ], f"JPEG size {sizes}"
    if way == "planes":
        return content[: at + 9] + bytes([rng.randrange(256)]) + content[at + 10 :], "JPEG planes"
    if way == "marker":
        mark = bytes([0xFF, rng.randrange(0xC0, 0xFF)]) + struct.pack(
            ">H", rng.choice((0, 1, 2, 60_000))
        )
        return content[:2] + mark + content[2:], f"JPEG marker {mark.hex()}"
    return content[:-2] + content[2:], "JPEG twice"


def _alter_gif(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    at = content.find(b",", 13)
    sizes = (rng.choice(_SIZES) & 0xFFFF, rng.choice(_SIZES) & 0xFFFF)
    way = rng.choice(("screen", "frame", "place", "flags"))
    place = {"screen": 6, "frame": at + 5, "place": at + 1, "flags": 10}[way]
    value = bytes([rng.randrange(256)]) if way == "flags" else struct.pack("<HH", *sizes)
    return content[:place] + value + content[place + len(value) :], f"GIF {way} {sizes}"


def _alter_bmp(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    fields = {
        "offset": 10,
        "header": 14,
        "width": 18,
        "height": 22,
        "bits": 26,
        "compression": 30,
        "colours": 46,
    }
    name = rng.choice(sorted(fields))
    value = rng.choice((*_SIZES, 2**32 - 20, 12, 40, 124))
    place = fields[name]
    return content[:place] + struct.pack("<I", value) + content[place + 4 :], f"BMP {name} {value}"


def _alter_webp(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    name = rng.choice(("riff", "chunk", "canvas", "frame"))
    value = rng.choice(_SIZES)
    place = {"riff": 4, "chunk": 16, "canvas": 24, "frame": 26}[name]
    if name == "canvas":
        extended = b"VP8X" + struct.pack("<I", 10) + bytes([0x10, 0, 0, 0])
        extended += struct.pack("<I", value)[:3] * 2
        return b"RIFF" + struct.pack("<I", len(content) + 10) + b"WEBP" + extended + content[
            12:
        ], f"WebP canvas {value}"
    return content[:place] + struct.pack("<I", value) + content[place + 4 :], f"WebP {name} {value}"


_HEADERS: dict[str, Callable[[random.Random, bytes], tuple[bytes, str]]] = {
    "PNG": _alter_png,
    "JPEG": _alter_jpeg,
    "GIF": _alter_gif,
    "BMP": _alter_bmp,
    "WEBP": _alter_webp,
}


def _saved(image: Image.Image, kind: str, more: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **more)
    return stream.getvalue()


def _png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, body in chunks:
        parts += [
            struct.pack(">I", len(body)),
            name,
            body,
            struct.pack(">I", zlib.crc32(name + body)),
        ]
    return b"".join(parts)
