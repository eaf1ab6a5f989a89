"""torch's compiler is given a folder that goes with the command, unless the user chose one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moir_edge.cli.compiler_folder import own_compiler_folder
from moir_edge.cli.main import COMMANDS, main

NAME = "TORCHINDUCTOR_CACHE_DIR"
_WITHOUT = {"build", "run", "inspect", "targets"}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv(NAME, raising=False)
    return tmp_path


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - _WITHOUT))
def test_commands_with_torch_have_one(command: str, root: Path) -> None:
    with own_compiler_folder(["-v", command, "run"]):
        assert root in Path(os.environ[NAME]).parents
        assert Path(os.environ[NAME]).is_dir()
    assert NAME not in os.environ
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    "words", [[], ["--help"], *([name, "export"] for name in sorted(_WITHOUT))]
)
def test_others_have_none(words: list[str], root: Path) -> None:
    with own_compiler_folder(words):
        assert NAME not in os.environ
        assert list(root.iterdir()) == []


def test_the_users_choice_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "mine")
    with own_compiler_folder(["export"]):
        assert os.environ[NAME] == "mine"
    assert os.environ[NAME] == "mine"


def test_a_command_that_fails_leaves_nothing(root: Path) -> None:
    assert main(["export", str(root / "missing"), "-o", str(root / "out")]) == 2
    assert list(root.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(root / "gone"))
    assert main(["export", "x", "-o", "y"]) == 2
    assert "error: cannot make a temporary folder" in capsys.readouterr().err
