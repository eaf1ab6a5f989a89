"""The order of the tests in several processes knows the files that are there."""

from __future__ import annotations

from pathlib import Path

from tests.scheduling import SECONDS, TOGETHER, scope_of, seconds_of

ROOT = Path(__file__).parents[2]


def test_files_stay_whole_and_some_folders_too() -> None:
    file = "tests/unit/runtime/test_chat.py"
    assert scope_of(f"{file}::test_a[x::y]") == file
    assert scope_of("tests/unit/families/test_families.py::test_a") == "tests/unit/families"


def test_what_is_named_is_there_and_counts_more_than_its_tests() -> None:
    for scope in (*TOGETHER, *SECONDS):
        assert (ROOT / scope).exists(), scope
    assert all(seconds_of(scope, 1) == seconds for scope, seconds in SECONDS.items())
    assert seconds_of("tests/unit/test_locks.py", 10) < seconds_of("tests/unit/test_locks.py", 20)
