"""Calibration caches: statistics altered behind their hash, and written anew by someone who made the hash fit."""

from __future__ import annotations

import hashlib
import io
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.area import Area, Case, Strategy, Unnoticed, register
from tests.fuzz.mutate.json_text import alter_json
from tests.fuzz.mutate.raw import alter_bytes, replace_file

_HASH_BYTES = 32
_IDENTITY = "0123456789abcdef"
_CHANNELS = 6


@register
class Caches(Area):
    """A calibration's saved state, gone on with as a resumed calibration does."""

    name = "caches"
    share = 1000
    sliced = 60

    def warm(self) -> None:
        from moir_edge.calibration.rows import CalibrationRows  # noqa: F401  (a case would import it)

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cache"
            self._save(path)
            self.content = path.read_bytes()
            _resumed(path).save()

    def _save(self, path: Path) -> None:
        """Write statistics as a calibration does after one row."""
        from moir_edge.calibration.statistics_file import Progressed, write_statistics

        observers = _observers()
        rng = np.random.default_rng(0)
        for observer in observers["decoder"].values():
            observer.update(rng.standard_normal((20, _CHANNELS)).astype(np.float32))
        with path.open("wb") as stream:
            write_statistics(stream, observers, Progressed(20, "0" * 64), _IDENTITY)

    def strategies(self) -> Sequence[Strategy]:
        return (self._bytes, self._header, self._values, self._odd_file, self._foreign, self._bytes)

    def attempt(self, payload: Any) -> None:
        path, is_forged = payload
        is_altered = path.is_file() and path.stat().st_size and path.read_bytes() != self.content
        state = _resumed(path)
        if is_altered and not is_forged:
            raise Unnoticed("an altered cache was taken")
        values = np.linspace(-3, 3, 2 * _CHANNELS, dtype=np.float32).reshape(2, _CHANNELS)
        for observer in state.observers["decoder"].values():
            observer.update(values)
        state.save()

    def _bytes(self, rng: random.Random, folder: Path) -> Case:
        content, how = alter_bytes(rng, self.content)
        return _case(folder, content, how)

    def _header(self, rng: random.Random, folder: Path) -> Case:
        first, header, body = self.content[:-_HASH_BYTES].split(b"\n", 2)
        text, how = alter_json(rng, header.decode(), largest=1 << 16)
        line = text.encode("utf-8", "surrogatepass").replace(b"\n", b" ")
        return _forged(folder, b"\n".join((first, line, body)), f"header: {how}")

    def _values(self, rng: random.Random, folder: Path) -> Case:
        """Put numbers into the arrays, which stand one after the other as plain bytes."""
        first, header, body = self.content[:-_HASH_BYTES].split(b"\n", 2)
        altered = bytearray(body)
        number = rng.choice((np.nan, np.inf, -np.inf, -1.0, 0.0, 1e300, -1e300, 1e-300, 1e18))
        kind = rng.choice(("<f8", "<f8", "<f4", "<i8"))
        with np.errstate(all="ignore"):
            raw = np.array([number]).astype(kind).tobytes()
        count = rng.choice((1, 1, 10, 5000))
        at = rng.randrange(len(body) // 8) * 8
        altered[at : at + count * len(raw)] = (raw * count)[: len(body) - at]
        return _forged(folder, b"\n".join((first, header, bytes(altered))), f"{number} at {at}")

    def _foreign(self, rng: random.Random, folder: Path) -> Case:
        stream = io.BytesIO()
        np.savez(stream, rows=np.array(3))
        contents = (
            stream.getvalue(),
            b"",
            b"\0" * 5_000_000,
            b"moir-edge calibration statistics 3\n" * 100_000,
            self.content * 40,
        )
        return _case(folder, rng.choice(contents), "something else")

    def _odd_file(self, rng: random.Random, folder: Path) -> Case:
        path, _ = _case(folder, self.content, "").payload
        return Case(replace_file(rng, path), (path, False))


def _observers() -> dict[str, Any]:
    from moir_edge.calibration.observers import ActivationObserver

    return {
        "decoder": {
            name: ActivationObserver(_CHANNELS, gram=name == "first")
            for name in ("first", "second")
        }
    }


def _resumed(path: Path) -> Any:
    from moir_edge.calibration.state import CollectionState

    state = CollectionState(path, _observers(), _IDENTITY)
    state.load()
    return state


def _forged(folder: Path, content: bytes, how: str) -> Case:
    case = _case(folder, content + hashlib.sha256(content).digest(), f"{how}, hashed")
    return Case(case.recipe, (case.payload[0], True))


def _case(folder: Path, content: bytes, how: str) -> Case:
    path = folder / "cache"
    path.write_bytes(content)
    return Case(how, (path, False))
