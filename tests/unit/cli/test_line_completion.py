"""The tab key of a chat: commands, and paths of images with folders on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from moir_edge.cli.conversation import COMMANDS
from moir_edge.cli.line_completion import complete_line


def test_commands() -> None:
    assert complete_line("/ro", COMMANDS) == ["/router off", "/router on"]
    assert complete_line("/im", COMMANDS) == ["/image "]
    assert complete_line("What is", COMMANDS) == []


def test_paths_after_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos here").mkdir()
    for name in ("photo.jpg", "photos here/one.png", ".hidden.png"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert complete_line("/image ph", ()) == ["/image photo.jpg", "/image photos here/"]
    assert complete_line("/image photos here/", ()) == ["/image photos here/one.png"]
    assert complete_line("/image ", ()) == ["/image photo.jpg", "/image photos here/"]
    assert complete_line("/image .h", ()) == ["/image .hidden.png"]
    assert complete_line("/image ~/photo.", ()) == ["/image ~/photo.jpg"]
    assert complete_line(f"/image {tmp_path}/none/x", ()) == []
