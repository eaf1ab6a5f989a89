from __future__ import annotations

import os

import pytest

from moir_edge.children import child_environment
from moir_edge.errors import DataError
from moir_edge.image_limit import (
    IMAGE_PIXELS_VARIABLE,
    checked_image_pixels,
    image_pixels,
    limited_image_pixels,
)
from moir_edge.limits import MAX_IMAGE_PIXELS, MOST_IMAGE_PIXELS


def test_the_default_is_the_photo_of_a_phone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(IMAGE_PIXELS_VARIABLE, raising=False)
    assert image_pixels() == MAX_IMAGE_PIXELS == 4096 * 3072


def test_a_limit_holds_in_the_processes_that_are_started_inside() -> None:
    with limited_image_pixels(500):
        assert image_pixels() == 500
        assert child_environment()[IMAGE_PIXELS_VARIABLE] == "500"
        with limited_image_pixels(None):
            assert image_pixels() == 500
        with limited_image_pixels(7):
            assert image_pixels() == 7
        assert image_pixels() == 500
    assert IMAGE_PIXELS_VARIABLE not in os.environ


def test_the_limit_goes_back_after_an_error() -> None:
    with pytest.raises(KeyError), limited_image_pixels(500):
        raise KeyError
    assert image_pixels() == MAX_IMAGE_PIXELS


@pytest.mark.parametrize("value", [0, -1, MOST_IMAGE_PIXELS + 1])
def test_limits_out_of_range_are_one_line(value: int) -> None:
    message = rf"^max_image_pixels is {value}; it must be at least 1 and at most 178956970$"
    with pytest.raises(DataError, match=message):
        checked_image_pixels(value)
    with pytest.raises(DataError, match=message), limited_image_pixels(value):
        pass


@pytest.mark.parametrize("text", ["", "many", "-5", "1e6", "0", "9" * 40, "١٢"])
def test_a_variable_that_is_no_limit_is_one_line(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(IMAGE_PIXELS_VARIABLE, text)
    with pytest.raises(DataError, match=r"^MOIR_EDGE_MAX_IMAGE_PIXELS='.*'; it must be at least 1"):
        image_pixels()
