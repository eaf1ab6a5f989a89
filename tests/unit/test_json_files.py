"""Tests of the reader of JSON files."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from moir_edge.errors import BundleError, DataError
from moir_edge.json_files import holds_more, read_bounded, read_json, read_object


def test_an_object_is_read_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": [1, null]}')
    assert read_object(path) == {"a": [1, None]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read as JSON (Expecting property name"),
        (b"\xff\xfe{}", "cannot be read as JSON ('utf-8' codec"),
        (b"[" * 100_000, "is nested too deeply"),
        (b"1" * 5000, "cannot be read as JSON (Exceeds the limit"),
        (b"[1]", "holds a list, expected an object {...}"),
        (b"null", "holds null, expected an object"),
        (b"true", "holds true or false, expected an object"),
        (b"1.5", "holds a number, expected an object"),
        (b'"x"', "holds a string, expected an object"),
        (b'{"a": "' + b"x" * 100 + b'"}', "has more than 64 bytes, the most that is read"),
    ],
)
def test_damage_is_one_line_with_file_and_remedy(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    most = 64 if b"x" * 100 in content else 1 << 20
    with pytest.raises(BundleError) as caught:
        read_object(path, error=BundleError, remedy="make it anew", most_bytes=most)
    text = str(caught.value)
    assert text.startswith(f"{path} {message}")
    assert text.endswith("; make it anew")
    assert "\n" not in text


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(DataError, match=f"^{re.escape(str(path))} is not a regular file"):
        read_json(path)


def test_a_missing_file_names_the_reason(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read \(No such file"):
        read_bounded(tmp_path / "gone", 10)


@pytest.mark.parametrize(
    ("value", "count"),
    [(3, 1), ([], 1), ([1, 2], 3), ({"a": [1, {"b": 2}]}, 5), ([[[]]], 3), ((1, (2,)), 4)],
)
def test_values_are_counted_up_to_a_bound(value: Any, count: int) -> None:
    assert not holds_more(value, count)
    assert holds_more(value, count - 1)
