"""The line that refuses a wrong type is short, whatever the value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moir_edge.arguments import file_path, text, wrong_type
from moir_edge.errors import DataError


def _nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3, "x is 3 (int); it must be y"),
        ("a\nb", "x is 'a\\nb' (str); it must be y"),
        (["a"] * 100_000, "x is ['a', 'a', 'a', 'a', 'a', 'a', 'a', 'a', 'a', 'a', 'a', 'a',… (list); it must be y"),
        (_nested(100_000), "x is nested too deeply to be shown (list); it must be y"),
    ],
    ids=["number", "text", "long", "deep"],
)  # fmt: skip
def test_the_value_is_shown_in_short(value: Any, shown: str) -> None:
    assert str(wrong_type("x", value, "y")) == shown


def test_paths_and_texts_pass_as_they_are() -> None:
    assert file_path("x", "a/b") == file_path("x", Path("a/b")) == Path("a/b")
    assert file_path("x", None) is None
    assert text("x", "") == ""
    assert text("x", None) is None
    for value in (b"a", 3, ["a"]):
        with pytest.raises(DataError, match="it must be a path"):
            file_path("x", value)
        with pytest.raises(DataError, match="it must be a string"):
            text("x", value)
