"""The file of calibration statistics: what was written comes back to the bit, anything else is refused in one line."""

from __future__ import annotations

import hashlib
import io
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moir_edge.calibration.observers import BINS, ActivationObserver
from moir_edge.calibration.state import CollectionState
from moir_edge.calibration.statistics_file import Progressed, read_statistics, write_statistics
from moir_edge.calibration.taps import GraphObservers
from moir_edge.errors import DataError

IDENTITY = hashlib.sha256(b"graphs").hexdigest()
SEEN = Progressed(7, hashlib.sha256(b"rows").hexdigest())
CHANNELS = {"vision": {"a": 6}, "decoder": {"b": 4, "c": 9}}
FLIPS = 600


def _new(**grams: bool) -> dict[str, GraphObservers]:
    return {
        component: {
            name: ActivationObserver(count, gram=grams.get(name, component == "decoder"))
            for name, count in own.items()
        }
        for component, own in CHANNELS.items()
    }


def _observed() -> dict[str, GraphObservers]:
    numbers = np.random.default_rng(5)
    observers = _new()
    for own in observers.values():
        for observer in own.values():
            shape = (3, 11, len(observer.channel_max))
            observer.update(numbers.normal(size=shape).astype(np.float32))
    return observers


def _written(path: Path, observers: dict[str, GraphObservers]) -> Path:
    with path.open("wb") as stream:
        write_statistics(stream, observers, SEEN, IDENTITY)
    return path


def _states(observers: dict[str, GraphObservers]) -> dict[tuple[str, str, str], Any]:
    return {
        (component, name, field): array.tolist()
        for component, own in observers.items()
        for name, observer in own.items()
        for field, array in observer.state().items()
    }


def _refusal(path: Path, identity: str = IDENTITY, **grams: bool) -> str:
    with pytest.raises(DataError) as caught:
        read_statistics(path, _new(**grams), identity)
    text = str(caught.value)
    assert text.startswith(f"the calibration cache {path} ")
    assert text.endswith("; remove it")
    assert "\n" not in text
    return text


def test_statistics_come_back_to_the_bit(tmp_path: Path) -> None:
    before = _observed()
    path = _written(tmp_path / "cache", before)
    after = _new()
    assert read_statistics(path, after, IDENTITY) == SEEN
    assert _states(after) == _states(before)
    written = io.BytesIO()
    write_statistics(written, after, SEEN, IDENTITY)
    assert written.getvalue() == path.read_bytes()


def test_a_flipped_bit_anywhere_is_refused(tmp_path: Path) -> None:
    path = _written(tmp_path / "cache", _observed())
    content = path.read_bytes()
    draw = random.Random(11)
    # Every bit of the two lines, some of the arrays, every bit of the hash.
    lines = content.index(b"\n", content.index(b"\n") + 1) + 1
    places = [*range(8 * lines), *range(8 * (len(content) - 32), 8 * len(content))]
    places += [draw.randrange(8 * len(content)) for _ in range(FLIPS)]
    for place in places:
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        _refusal(path)


def test_a_file_of_another_length_is_refused_before_its_arrays_are_read(tmp_path: Path) -> None:
    path = _written(tmp_path / "cache", _observed())
    content = path.read_bytes()
    draw = random.Random(12)
    for length in (0, 1, 40, len(content) - 1, *(draw.randrange(len(content)) for _ in range(40))):
        path.write_bytes(content[:length])
        assert "is damaged (" in _refusal(path)
    path.write_bytes(content + b"\0")
    assert f"it has {len(content) + 1:,} bytes, the graphs' statistics take {len(content):,}" in (
        _refusal(path)
    )


def test_statistics_of_another_model_are_refused_by_identity(tmp_path: Path) -> None:
    path = _written(tmp_path / "cache", _observed())
    other = hashlib.sha256(b"others").hexdigest()
    assert "was made from another model or with other settings" in _refusal(path, other)
    # graphs of the same identity whose statistics have another size
    assert "is damaged (it has " in _refusal(path, b=False)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'"rows": 7', b'"rows": 0', "`rows` must be a whole number of at least 1"),
        (b'"rows": 7', b'"rows": -7', "`rows` must be a whole number of at least 1"),
        (b'"rows": 7', b'"rows": 7.5', "`rows` must be a whole number of at least 1"),
        (b'"rows": 7', b'"rows": true', "`rows` must be a whole number of at least 1"),
        (b'"rows": 7', b'"rows": NaN', "`rows` must be a whole number of at least 1"),
        (b'"rows": 7', b'"rows": 7, "more": 1', "must have the keys identity, rows, rows_sha256"),
        (b'"rows": 7', b'"rows": ' + b"9" * 900, "its second line is not JSON"),
        (b'"rows": 7', b'"rows": ' + b"[" * 900, "its second line is not JSON"),
        (b'"rows_sha256": "', b'"rows_sha256": 0, "', "its second line is not JSON"),
        (b"{", b"[{", "its second line is not JSON"),
    ],
)
def test_a_header_of_another_shape_is_named(
    tmp_path: Path, old: bytes, new: bytes, reason: str
) -> None:
    path = _written(tmp_path / "cache", _observed())
    _seal(path, path.read_bytes()[:-32].replace(old, new, 1))
    assert reason in _refusal(path)


def _seal(path: Path, content: bytes) -> None:
    path.write_bytes(content + hashlib.sha256(content).digest())


def _negative_count(observer: ActivationObserver) -> None:
    observer.counts[:2] += (observer.counts.sum(), -observer.counts.sum())


def _lost_count(observer: ActivationObserver) -> None:
    observer.counts[np.flatnonzero(observer.counts)[0]] -= 1


def _many_tokens(observer: ActivationObserver) -> None:
    observer.tokens = 1 << 60


def _field(name: str, value: float) -> Callable[[ActivationObserver], None]:
    def change(observer: ActivationObserver) -> None:
        array = getattr(observer, name)
        array.reshape(-1)[0] = value

    return change


def _scalar(name: str, value: float) -> Callable[[ActivationObserver], None]:
    return lambda observer: setattr(observer, name, value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_negative_count, "counts: a number is negative"),
        (_lost_count, "counts: their sum is not the number of values"),
        (_many_tokens, "scalars: the exponent and the number of tokens must be whole"),
        (_scalar("tokens", 33.5), "scalars: the exponent and the number of tokens must be whole"),
        (_scalar("tokens", -1), "counts: their sum is not the number of values"),
        (_scalar("exponent", 1e9), "scalars: the exponent does not fit the largest value"),
        (_scalar("exponent", -41), "scalars: the exponent does not fit the largest value"),
        (_scalar("exponent", -9), "scalars: the exponent does not fit the largest value"),
        (_scalar("largest", 0.5), "scalars: the largest value is not that of channel_max"),
        (_scalar("largest", np.inf), "scalars: 1 of 3 values is NaN or infinite"),
        (_field("channel_max", -1), "channel_max: a magnitude is negative"),
        (_field("channel_max", np.nan), "channel_max: 1 of 9 values is NaN or infinite"),
        (_field("channel_square", -1), "channel_square: a sum is negative"),
        (_field("channel_square", 1e9), "channel_square: a sum is above what channel_max allows"),
        (_field("gram", np.nan), "gram: 1 of 81 values is NaN or infinite"),
        (_field("gram", -1), "gram: a sum of squares is negative"),
    ],
)
def test_statistics_that_contradict_each_other_are_named(
    tmp_path: Path, change: Callable[[ActivationObserver], None], reason: str
) -> None:
    observers = _observed()
    change(observers["decoder"]["c"])
    path = _written(tmp_path / "cache", observers)
    assert f"is damaged ('c' in decoder: {reason})" in _refusal(path)


def test_observed_values_never_contradict_each_other() -> None:
    numbers = np.random.default_rng(6)
    for power in (-60, -41, -3, 0, 17, 50):
        observer = ActivationObserver(5, gram=True)
        for tokens in (0, 1, 300):
            values = numbers.normal(size=(tokens, 5)) * 2.0**power
            observer.update(values.astype(np.float32))
            assert ActivationObserver.from_state(observer.state()).tokens == observer.tokens
    assert len(observer.counts) == BINS


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_not_a_file_is_refused_before_it_is_opened(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "cache"
    make(path)
    with pytest.raises(DataError) as caught:
        CollectionState(path, _new(), IDENTITY).load()
    assert str(caught.value) == f"the calibration cache {path} is not a regular file; remove it"
