"""Images: files of the five formats and of others, arrays, and things that are not images."""

from __future__ import annotations

import io
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.area import Area, Case, Strategy, register
from tests.fuzz.folders import link_copy, prove_again, rewrite
from tests.fuzz.mutate.pictures import (
    FOREIGN,
    FORMATS,
    altered_header,
    large_picture,
    moving_picture,
    small_picture,
)
from tests.fuzz.mutate.raw import alter_bytes, replace_file

PROMPT = "What is left of the red digit?"


@register
class Images(Area):
    """Whatever is given as an image, up to the pixels that the vision graph takes."""

    name = "images"
    share = 2000
    sliced = 45
    needs = ("int4",)

    def warm(self) -> None:
        from moir_edge import load

        with tempfile.TemporaryDirectory() as folder:
            tiles = _splitting(self.seeds / "int4", Path(folder) / "tiles")
            self.models = [
                load(one, threads=1, provider="cpu") for one in (self.seeds / "int4", tiles)
            ]

    def strategies(self) -> Sequence[Strategy]:
        return (
            self._header, self._bytes, self._header, self._foreign, self._large, self._moving, self._array, self._object,
            self._odd_file,
        )  # fmt: skip

    def attempt(self, payload: Any) -> None:
        from moir_edge.errors import MoirEdgeError

        refused = None
        for model in self.models:
            try:
                model.encode(PROMPT, [payload])
            except MoirEdgeError as error:
                refused = error
        if refused is not None:
            raise refused

    def _header(self, rng: random.Random, folder: Path) -> Case:
        content, how = altered_header(rng, rng.choice(FORMATS))
        return Case(how, _given(rng, content, folder))

    def _bytes(self, rng: random.Random, folder: Path) -> Case:
        kind = rng.choice(FORMATS)
        content, how = alter_bytes(rng, small_picture(rng, kind))
        return Case(f"{kind} {how}", _given(rng, content, folder))

    def _foreign(self, rng: random.Random, folder: Path) -> Case:
        kind = rng.choice(FOREIGN)
        try:
            content = small_picture(rng, kind)
        except (OSError, KeyError, ValueError):  # this Pillow does not write it
            content = kind.encode() + rng.randbytes(200)
        return Case(f"{kind} of {len(content)} bytes", _given(rng, content, folder))

    def _large(self, rng: random.Random, folder: Path) -> Case:
        content, how = large_picture(rng)
        return Case(how, _given(rng, content, folder))

    def _moving(self, rng: random.Random, folder: Path) -> Case:
        content, how = moving_picture(rng)
        if rng.random() < 0.6:
            content, more = alter_bytes(rng, content)
            how += f", {more}"
        return Case(how, _given(rng, content, folder))

    def _array(self, rng: random.Random, folder: Path) -> Case:
        ends = rng.choice(((), (1,), (2,), (3,), (4,), (5,), (0,), (3, 3)))
        sizes = rng.choice(
            ((4, 5), (0, 4), (1, 1), (1, 20_000), (7,), (), (30_000, 30_000), (1 << 20, 1 << 20))
        )
        kind = rng.choice(
            ("u1", "u1", "u1", "i1", "f4", "f8", "?", "u2", "c8", "O", "S3", "M8[s]", "U2")
        )
        # One element, seen as often as the shape says.
        array = np.broadcast_to(np.zeros((), kind), (*sizes, *ends))
        return Case(f"array {array.shape} of {kind}", array)

    def _object(self, rng: random.Random, folder: Path) -> Case:
        good = small_picture(rng, "PNG")
        path = folder / "good.png"
        path.write_bytes(good)
        things: tuple[Any, ...] = (
            bytearray(good), memoryview(good), io.BytesIO(good), path.open("rb"), None, 0, 1.5, True, [], {}, (), "", " ",
            "\0", "a" * 5000, "\ud800", b"", folder, Path("/dev/zero"), Path("/dev/null"), "http://localhost/x.png",
            f"file://{path}", f"data:image/png;base64,{good.hex()}", object(), Exception, [path], {"path": str(path)},
            str(path).encode(), np.str_(path), np.array(str(path)), path, str(path),
        )  # fmt: skip
        thing = rng.choice(things)
        return Case(f"{type(thing).__name__} {ascii(thing)[:60]}", thing)

    def _odd_file(self, rng: random.Random, folder: Path) -> Case:
        path = folder / "picture.png"
        path.write_bytes(small_picture(rng, "PNG"))
        return Case(replace_file(rng, path), path)


def _given(rng: random.Random, content: bytes, folder: Path) -> Any:
    """Return content as a caller may have it: bytes, or a file whose ending need not fit."""
    if rng.random() < 0.5:
        return content
    path = folder / f"picture{rng.choice(('.png', '.jpg', '.gif', '', '.txt'))}"
    path.write_bytes(content)
    return path if rng.random() < 0.5 else str(path)


def _splitting(source: Path, folder: Path) -> Path:
    """Return a copy of a bundle whose processor cuts images into tiles."""
    copy = link_copy(source, folder)
    path = copy / "processor_config.json"
    config = json.loads(path.read_text())
    config["image_processor"] |= {"do_image_splitting": True, "size": {"longest_edge": 384}}
    rewrite(path, json.dumps(config))
    prove_again(copy)
    return copy
