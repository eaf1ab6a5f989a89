from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from moir_edge.errors import DataError, UnsupportedError
from moir_edge.runtime.settings import GenerationOptions, GenerationSettings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        (
            {"temperature": 1e-300},
            r"temperature is 1e-300; it must be 0 \(greedy\) or at least 1e-30",
        ),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"seed": -3}, "seed is -3"),
        ({"stop": ("",)}, "stop is"),
        ({"stop": ""}, "stop is"),
        (
            {"stop": ["x" * 16_384, "y"]},
            "stop is 16385 characters long; it must be at most 16384 characters in all",
        ),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        GenerationSettings(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"router": "off"}, r"router is 'off' \(str\); it must be True or False"),
        ({"router": None}, r"router is None \(NoneType\); it must be True or False"),
        ({"router": 0}, r"router is 0 \(int\); it must be True or False"),
        ({"ignore_generation_config": 1}, "ignore_generation_config is 1"),
        ({"max_new_tokens": True}, r"max_new_tokens is True \(bool\); it must be a whole number"),
        ({"max_new_tokens": 5.0}, r"max_new_tokens is 5.0 \(float\); it must be a whole number"),
        ({"max_new_tokens": "5"}, "max_new_tokens is '5'"),
        ({"temperature": "0"}, r"temperature is '0' \(str\); it must be a number"),
        ({"temperature": None}, "temperature is None; it must be 0"),
        ({"temperature": False}, "temperature is False"),
        ({"top_p": "0.9"}, "top_p is '0.9'"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"seed": 1.0}, "seed is 1.0"),
        ({"stop": 5}, r"stop is 5 \(int\); it must be a string or a list of strings"),
        ({"stop": ["a", 5]}, r"stop is \['a', 5\]"),
        ({"stop": b"a"}, "stop is b'a'"),
        ({"generation_config": [1]}, r"generation_config is \[1\] \(list\); it must be a mapping"),
        ({"generation_config": "none"}, "generation_config is 'none'"),
    ],
)
def test_a_wrong_type_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        GenerationSettings(**change)
    assert "\n" not in str(caught.value)


def test_the_numbers_of_numpy_are_numbers() -> None:
    settings = GenerationSettings(
        max_new_tokens=np.int64(5),  # type: ignore[arg-type]
        seed=np.uint8(3),  # type: ignore[arg-type]
        temperature=np.float32(0.5),  # type: ignore[arg-type]
        router=np.bool_(False),  # type: ignore[arg-type]
    )
    assert settings == GenerationSettings(max_new_tokens=5, seed=3, temperature=0.5, router=False)
    assert type(settings.max_new_tokens) is int


def test_the_caller_goes_before_the_mapping_and_the_mapping_before_the_file() -> None:
    file = {
        "max_new_tokens": 9,
        "top_k": 3,
        "repetition_penalty": 1.3,
        "stop_strings": "a",
        "top_p": 0.5,
    }
    own = GenerationSettings(
        max_new_tokens=5, stop=["b"], generation_config={"top_k": 4, "repetition_penalty": None}
    ).rules(file)
    assert (own.max_new_tokens, own.stop_strings) == (5, ("b",))
    assert (own.top_k, own.repetition_penalty, own.top_p) == (4, 1.0, 0.5)
    assert GenerationSettings(stop=()).rules(file).stop_strings == ()
    ignored = GenerationSettings(ignore_generation_config=True).rules({**file, "num_beams": 3})
    assert ignored == GenerationSettings().rules({})


def test_beam_search_is_refused_by_name() -> None:
    with pytest.raises(
        UnsupportedError,
        match=r"num_beams=3 asks for beam search.*with `generation_config=.'num_beams': 1.`",
    ):
        GenerationSettings().rules({"num_beams": 3})
    assert GenerationSettings(generation_config={"num_beams": 1}).rules({"num_beams": 3})


def test_keywords_of_generate_are_the_fields() -> None:
    names = {one.name for one in fields(GenerationSettings)}
    assert set(GenerationOptions.__annotations__) == names


def test_stop_strings_of_the_file_have_the_same_bound() -> None:
    file = {"stop_strings": ["x" * 20_000]}
    with pytest.raises(
        DataError, match="stop_strings is 20000 characters long; it must be at most"
    ):
        GenerationSettings().rules(file)
    assert GenerationSettings(stop=["x" * 16_384]).rules(file).stop_strings is not None


def test_a_config_of_very_many_values_is_refused_before_they_are_checked() -> None:
    settings = GenerationSettings(generation_config={"suppress_tokens": ["x"] * 100_000})
    with pytest.raises(DataError, match="the generation config holds more than 100,000 values"):
        settings.rules({})
