"""Alter bytes without a look at their meaning: flips, cuts, repeats, and odd ways to be a file."""

from __future__ import annotations

import os
import random
from pathlib import Path

__all__ = ["alter_bytes", "replace_file"]


def alter_bytes(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """Return altered bytes, and how in a few words."""
    kind = rng.choice(("flip", "flip", "flips", "cut", "insert", "drop", "repeat", "zero", "empty"))
    size = len(content)
    at = rng.randrange(size) if size else 0
    length = min(size - at, rng.choice((1, 2, 8, 64, 4096)))
    end = at + length
    if kind == "empty" or not size:
        return b"", "empty"
    if kind in ("flip", "flips"):
        altered = bytearray(content)
        for _ in range(1 if kind == "flip" else rng.randint(2, 64)):
            place = rng.randrange(size)
            altered[place] ^= 1 << rng.randrange(8)
        return bytes(altered), f"{kind} at {place}"
    if kind == "cut":
        return content[:at], f"cut at {at}"
    if kind == "insert":
        return content[:at] + rng.randbytes(length) + content[at:], f"insert {length} at {at}"
    if kind == "drop":
        return content[:at] + content[end:], f"drop {length} at {at}"
    if kind == "repeat":
        return content[:end] + content[at:end] * rng.randint(1, 50) + content[end:], "repeat"
    return content[:at] + bytes(length) + content[end:], f"zero {length} at {at}"


def replace_file(rng: random.Random, path: Path) -> str:
    """Put something odd in the place of a file, and return what."""
    content = path.read_bytes()
    path.unlink()
    kind = rng.choice(("gone", "folder", "fifo", "link", "loop", "device", "endless", "outside"))
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        moved = path.with_name(f"{path.name}.moved")
        moved.write_bytes(content)
        path.symlink_to(moved.name)
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "device":
        path.symlink_to("/dev/null")
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "outside":
        moved = path.parent.parent / f"outside-{path.name}"
        moved.write_bytes(content)
        path.symlink_to(f"../{moved.name}")
    return kind
