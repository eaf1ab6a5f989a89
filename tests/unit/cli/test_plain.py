"""A terminal without a letter gets a plain spelling, in every command, and never an error."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from moir_edge.cli.plain import printable_streams


@pytest.mark.parametrize(
    ("encoding", "text", "printed"),
    [
        ("ascii", "1 – 2 ≤ 3 × é → ✓ 漢", b"1 - 2 <= 3 x e -> yes ?"),
        ("cp1252", "1 – 2 ≤ 3 × é → ✓ 漢", b"1 \x96 2 <= 3 \xd7 \xe9 -> yes ?"),
        ("utf-8", "≤ 漢", "≤ 漢".encode()),
    ],
)
def test_a_letter_that_is_missing_is_spelled(
    encoding: str, text: str, printed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_ = io.BytesIO()
    stream = io.TextIOWrapper(bytes_, encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    with printable_streams():
        stream.write(text)
        stream.flush()
    assert bytes_.getvalue() == printed
    assert stream.errors == "strict"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("words", [["targets"], ["export", "--help"], ["run", "ünï→漢", "-p", "x"]])
def test_no_command_fails_for_an_encoding(words: list[str], encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "moir_edge", *words],
        env={**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "60"},
        capture_output=True,
        check=False,
    )
    assert b"Unicode" not in done.stderr
    assert done.returncode == (2 if words[0] == "run" else 0)
    assert done.stdout or done.stderr.splitlines()[-1].startswith(b"error: ")
