"""A second question about the same pictures runs no vision tower, and its answer has the same bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import moir_edge
from moir_edge.errors import DataError
from moir_edge.runtime.image_cache import ImageCache
from moir_edge.runtime.image_processor import ImageShape
from moir_edge.runtime.interface import ImageFeatures

SHAPE = ImageShape(rows=0, columns=0, views=(), size=(4, 4))


def features(value: float, tokens: int = 4) -> ImageFeatures:
    return ImageFeatures(features=np.full((tokens, 8), value, np.float32))


def pixels(value: float) -> Any:
    return np.full((1, 3, 4, 4), value, np.float32)


@pytest.fixture
def model(tiny_bundle: Path) -> moir_edge.EdgeModel:
    return moir_edge.load(tiny_bundle, threads=1, image_cache_bytes=1 << 20)


def count_vision(model: moir_edge.EdgeModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    runs = [0]
    run = model.sessions.run_vision

    def counted(feed: Mapping[str, Any]) -> Any:
        runs[0] += 1
        return run(feed)

    monkeypatch.setattr(model.sessions, "run_vision", counted)
    return runs


def test_the_tower_runs_once_for_two_questions(
    model: moir_edge.EdgeModel,
    picture: Callable[..., Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = count_vision(model, monkeypatch)
    # a clock that a run of the tower alone moves, by a second
    clock = SimpleNamespace(perf_counter=lambda: float(runs[0]))
    monkeypatch.setattr("moir_edge.runtime.timing.time", clock)
    first = model.generate("what?", picture(20, 30), max_new_tokens=4)
    second = model.generate("where is it?", picture(20, 30), max_new_tokens=4)
    assert (first.images_known, second.images_known, runs[0]) == (False, True, 1)
    assert (model.image_cache.hits, model.image_cache.misses) == (1, 1)
    assert (first.timings.vision_ms, second.timings.vision_ms) == (1000, 0)


def test_an_answer_does_not_change_by_a_hit(
    model: moir_edge.EdgeModel, tiny_bundle: Path, picture: Callable[..., Image.Image]
) -> None:
    plain = moir_edge.load(tiny_bundle, threads=1)
    for question in ("what?", "where is it?", "what?"):
        for router in (True, False):
            mine, other = (
                one.generate(question, picture(20, 30), max_new_tokens=6, router=router)
                for one in (model, plain)
            )
            assert mine.token_ids == other.token_ids
            for ours, theirs in zip(mine.routing or (), other.routing or (), strict=True):
                np.testing.assert_array_equal(ours.scores, theirs.scores)
                np.testing.assert_array_equal(ours.indices, theirs.indices)
    assert model.image_cache.hits == 5


def test_other_pixels_are_other_features(
    model: moir_edge.EdgeModel,
    picture: Callable[..., Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = count_vision(model, monkeypatch)
    one, changed = picture(20, 30), picture(20, 30).copy()
    changed.putpixel((0, 0), tuple(255 - value for value in one.getpixel((0, 0))))
    assert [model.generate("a", each, max_new_tokens=1).images_known for each in (one, changed)] == [False, False]  # fmt: skip
    assert not model.generate("a", [one, changed], max_new_tokens=1).images_known
    assert model.generate("a", [one, changed], max_new_tokens=1).images_known
    assert runs[0] == 3


def test_a_prompt_without_pictures_is_no_miss(model: moir_edge.EdgeModel) -> None:
    assert not model.generate("words alone", max_new_tokens=1).images_known
    assert (model.image_cache.hits, model.image_cache.misses) == (0, 0)


def test_nothing_is_kept_unless_asked_for(
    tiny_bundle: Path, picture: Callable[..., Image.Image]
) -> None:
    model = moir_edge.load(tiny_bundle, threads=1)
    assert not any(
        model.generate("a", picture(20, 30), max_new_tokens=1).images_known for _ in range(2)
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (-1, r"image_cache_bytes is -1; it must be at least 0"),
        ("many", r"image_cache_bytes is 'many'"),
    ],
)
def test_sizes_that_make_no_sense(tiny_bundle: Path, given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        moir_edge.load(tiny_bundle, image_cache_bytes=given)


def test_what_was_used_least_goes_first() -> None:
    size = features(0).features.nbytes
    cache = ImageCache(2 * size)
    keys = [cache.key(pixels(value), [SHAPE]) for value in range(3)]
    for value in range(2):
        cache.put(keys[value], features(value))
    assert cache.get(keys[0]) is not None  # now 1 is the older one
    cache.put(keys[2], features(2))
    assert [cache.get(key) is not None for key in keys] == [True, False, True]
    cache.put(keys[1], features(1, tokens=64))  # larger than the cache
    assert cache.get(keys[1]) is None


def test_features_are_copied_and_those_of_a_device_are_not_kept() -> None:
    cache = ImageCache(1 << 20)
    key = cache.key(pixels(1), [SHAPE])
    own = features(1)
    cache.put(key, own)
    own.features[:] = 7
    found = cache.get(key)
    assert found is not None
    assert found.features.max() == 1
    elsewhere = cache.key(pixels(2), [SHAPE])
    cache.put(elsewhere, ImageFeatures(features=object()))
    assert cache.get(elsewhere) is None
