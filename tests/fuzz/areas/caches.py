"""Calibration caches: archives of arrays, altered as archives, as arrays and as bytes."""

from __future__ import annotations

import io
import random
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.area import Area, Case, Strategy, register
from tests.fuzz.mutate.raw import alter_bytes, replace_file

_PARTS = ("counts", "scalars", "channel_max", "channel_square", "gram")


@register
class Caches(Area):
    """A calibration's saved state, loaded and looked at as a resumed calibration does."""

    name = "caches"
    share = 800
    sliced = 40

    def warm(self) -> None:
        from moir_edge.calibration.observers import ActivationObserver
        from moir_edge.calibration.state import CollectionState

        rng = np.random.default_rng(0)
        observers = {}
        for name in ("first", "second"):
            observers[name] = ActivationObserver(6, gram=name == "first")
            observers[name].update(rng.standard_normal((20, 6)).astype(np.float32))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cache.npz"
            CollectionState(path, {"decoder": observers}, rows=20, sha256="0" * 64).save()
            self.content = path.read_bytes()
            CollectionState.load(path)

    def strategies(self) -> Sequence[Strategy]:
        return (
            self._arrays,
            self._headers,
            self._archive,
            self._arrays,
            self._bytes,
            self._odd_file,
        )

    def attempt(self, payload: Any) -> None:
        from moir_edge.calibration.state import CollectionState

        state = CollectionState.load(payload)
        values = np.linspace(-3, 3, 12, dtype=np.float32).reshape(2, 6)
        for observers in state.observers.values():
            for observer in observers.values():
                observer.update(values)
        state.save()

    def _arrays(self, rng: random.Random, folder: Path) -> Case:
        with np.load(io.BytesIO(self.content)) as archive:
            arrays: dict[str, Any] = dict(archive)
        key = rng.choice(sorted(arrays))
        how = rng.choice(("shape", "type", "value", "drop", "name", "large", "extra"))
        array = arrays[key]
        if how == "shape":
            arrays[key] = rng.choice(
                (array.reshape(-1)[:0], array[None], np.stack([array] * 3), array.reshape(-1)[:1])
            )
        elif how == "type":
            kind = rng.choice(("f2", "c16", "U8", "S4", "?", "i1", "M8[s]", "V4"))
            arrays[key] = np.zeros(array.shape, kind)
        elif how == "value":
            number = rng.choice((np.nan, np.inf, -1, 0, 1e300, 2**62, -(2**62), 1e-300, 1e9))
            with np.errstate(all="ignore"):
                arrays[key] = np.full(array.shape, number).astype(
                    array.dtype if array.dtype.kind in "fi" else "f8"
                )
        elif how == "drop":
            del arrays[key]
        elif how == "name":
            arrays[
                rng.choice(("x", "a|b", "a|b|c|d", "decoder|first|x", "|||", "decoder||counts"))
            ] = arrays.pop(key)
        elif how == "large":
            arrays[key] = np.zeros(rng.choice((10**5, 5_000_000)), np.int8)
        else:
            arrays["decoder|third|" + rng.choice(_PARTS)] = np.zeros(6)
        stream = io.BytesIO()
        np.savez(stream, **arrays)
        return _case(folder, stream.getvalue(), f"{key}: {how}")

    def _headers(self, rng: random.Random, folder: Path) -> Case:
        """Say in an array's header that it has another shape or type."""
        names = zipfile.ZipFile(io.BytesIO(self.content)).namelist()
        name = rng.choice(names)
        shape = rng.choice(
            (
                "()",
                "(-1,)",
                "(10**9,)",
                "(6,)",
                f"({10**10},)",
                f"({2**62},)",
                "(2, 3)",
                "(0,)",
                "(6, 6, 6)",
                "None",
                "6",
            )
        )
        kind = rng.choice(
            ("'<f8'", "'|O'", "'<U999999'", "'|V8'", "[('a', '<f8')]", "'x'", "3", "'<i8'")
        )
        text = f"{{'descr': {kind}, 'fortran_order': {rng.choice(('False', 'True', '3'))}, 'shape': {shape}, }}"
        return _case(folder, self._replaced(name, text), f"{name}: {text}")

    def _replaced(self, name: str, header: str) -> bytes:
        stream = io.BytesIO()
        old = zipfile.ZipFile(io.BytesIO(self.content))
        with zipfile.ZipFile(stream, "w") as archive:
            for one in old.namelist():
                body = old.read(one)
                if one == name:
                    body = (
                        b"\x93NUMPY\x01\x00"
                        + len(header).to_bytes(2, "little")
                        + header.encode()
                        + body[128:]
                    )
                archive.writestr(one, body)
        return stream.getvalue()

    def _archive(self, rng: random.Random, folder: Path) -> Case:
        old = zipfile.ZipFile(io.BytesIO(self.content))
        stream = io.BytesIO()
        how = rng.choice(
            ("deflated", "twice", "outside", "text", "none", "long name", "inflated", "folder")
        )
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in () if how == "none" else old.namelist():
                archive.writestr(name, old.read(name))
            if how == "inflated":
                zeros = b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f8', 'fortran_order': False, 'shape': (100000000,), }".ljust(
                    128
                )
                archive.writestr("decoder|first|gram.npy", zeros + bytes(800_000_000))
            extra = {
                "outside": "../x.npy",
                "text": "x.txt",
                "long name": "a" * 60_000,
                "folder": "x/",
            }
            if how in extra:
                archive.writestr(extra[how], b"x")
            if how == "twice":
                archive.writestr("rows.npy", b"x")
        return _case(folder, stream.getvalue(), how)

    def _bytes(self, rng: random.Random, folder: Path) -> Case:
        content, how = alter_bytes(rng, self.content)
        return _case(folder, content, how)

    def _odd_file(self, rng: random.Random, folder: Path) -> Case:
        case = _case(folder, self.content, "whole")
        return Case(replace_file(rng, case.payload), case.payload)


def _case(folder: Path, content: bytes, how: str) -> Case:
    path = folder / "cache.npz"
    path.write_bytes(content)
    return Case(how, path)
