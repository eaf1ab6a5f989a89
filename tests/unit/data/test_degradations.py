from __future__ import annotations

import pytest

from moir_edge.data.degradations import DEFAULTS, parse_degradation
from moir_edge.data.kinds import image_degradation, known_kinds
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.evaluation.diagnosis import DiagnoseSettings


def test_every_kind_of_the_registry_can_be_asked_for() -> None:
    assert {kind.name for kind in known_kinds()} == {
        *DEFAULTS,
        "mask-region",
        "image-absent",
        "context-absent",
    }
    for kind in known_kinds():
        asked = parse_degradation(kind.name)
        assert parse_degradation(asked.label) == asked
        if kind.quantity is not None:
            levels = [parse_degradation(f"{kind.name}@{level}").strength() for level in range(1, 6)]
            assert levels == list(kind.quantity.levels)
            assert asked.strength() == levels[2]
            assert all(kind.quantity.low <= level <= kind.quantity.high for level in levels)


def test_a_blur_level_is_scaled_by_the_shorter_side() -> None:
    # ImageNet-C: sigma 1, 2, 3, 4, 6 px at 224 px
    assert parse_degradation("blur@5").strength(224) == 6
    assert parse_degradation("blur@3").strength(96) == pytest.approx(3 * 96 / 224)
    assert parse_degradation("blur@3").strength(448) == 6
    # what is no length is not scaled, and neither is a strength that was given
    assert parse_degradation("noise@2").strength(96) == 0.12
    assert parse_degradation("blur=3.4px").strength(96) == 3.4


def test_spellings() -> None:
    assert parse_degradation("blur=3.4px").label == "blur=3.4px"
    assert parse_degradation(" blur = 3.4 ").label == "blur=3.4px"
    assert parse_degradation("jpeg").label == "jpeg@3"
    assert parse_degradation("word-dropout=.3").strength() == 0.3
    assert parse_degradation("text-blank").label == "text-blank"


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        UnsupportedError,
        match=r"unknown degradation 'blurr': did you mean 'blur'\? \(known: blur, context-absent, image-absent, "
        r"image-blank, jpeg, mask-region, noise, text-blank, word-dropout\)",
    ):
        parse_degradation("blurr@2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blur@6", "got level '6', expected 1 to 5"),
        ("blur@", "got level '', expected 1 to 5"),
        ("blur=3%", "got '3%', expected sigma from 0 to 100 in px"),
        ("blur=-1", "got '-1', expected sigma from 0 to 100 in px"),
        ("word-dropout=1.5", "1.5 is out of range; give p from 0 to 1"),
        ("jpeg=12.5", "12.5 is out of range; give quality from 1 to 95, a whole number"),
        ("jpeg=0", "0 is out of range"),
        ("image-blank=1", "image-blank is all or nothing; write image-blank"),
        ("blur@2=3", "write NAME, NAME@LEVEL or NAME=VALUE"),
        ("", "write NAME"),
    ],
)
def test_bad_strength_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        parse_degradation(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="'blur' is registered twice"):
        image_degradation("blur")(lambda image, *_: image)


def test_settings_write_levels_out_and_refuse_doubles() -> None:
    assert DiagnoseSettings(degradations=("blur", "noise@1")).degradations == ("blur@3", "noise@1")
    with pytest.raises(DataError, match="blur@3 is given twice; name each one once"):
        DiagnoseSettings(degradations=("blur", "blur@3"))
    with pytest.raises(DataError, match="batch-size must be at least 1, got 0"):
        DiagnoseSettings(batch_size=0)
    with pytest.raises(DataError, match="attention-rows must not be negative, got -1"):
        DiagnoseSettings(attention_rows=-1)
