"""The recipes for a board name flags that exist, extras that exist, and files that are there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import tomllib
import typer

from moir_edge.__main__ import _TERMINATED
from moir_edge.cli.main import build_app

ROOT = Path(__file__).parents[2]
UNIT = (ROOT / "systemd" / "moir-edge.service").read_text(encoding="utf-8")
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
PAGE = (ROOT / "docs" / "jetson.md").read_text(encoding="utf-8")


def flags_of(command: str) -> set[str]:
    found = typer.main.get_command(build_app()).commands[command]  # type: ignore[attr-defined]
    return {flag for one in found.params for flag in (*one.opts, *one.secondary_opts)}


def commands(text: str) -> list[list[str]]:
    """Return the words after `moir-edge` of every command that a text holds, comments of a shell left out."""
    joined = text.replace("\\\n", " ")
    lines = re.findall(r"(?:bin/)?moir-edge ((?!is)[a-z]+ [^`\n]*|doctor)$", joined, re.M)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("text", [UNIT, PAGE], ids=["unit", "page"])
def test_every_command_exists_with_its_flags(text: str) -> None:
    found = commands(text)
    assert found
    for command, *words in found:
        flags = {word for word in words if word.startswith("-")}
        assert flags <= flags_of(command), command


def test_the_unit_waits_longer_than_the_server() -> None:
    grace = {int(seconds) for seconds in re.findall(r"--grace (\d+)", UNIT)}
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.M)
    assert int(stop) > max(grace)


def test_a_stop_is_not_a_failure() -> None:
    assert f"SuccessExitStatus={_TERMINATED}\n" in UNIT


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "moir-edge.service"
    unit.write_text(UNIT.replace("/opt/moir-edge/bin/moir-edge", "/bin/true"))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_dockerfiles_copy_what_is_there_and_install_extras_that_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for words in re.findall(r"^COPY (.+) \S+$", text, re.M):
        assert all((ROOT / name).exists() for name in words.split())
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = re.findall(r"/src\[([\w,]+)\]", text)
    assert set(wanted.split(",")) <= set(extras["optional-dependencies"])
    assert f"docker/{path.name}" in PAGE
    assert "build -f docker/" + path.name in text


def test_there_is_a_recipe_for_each_jetpack() -> None:
    assert [path.stem for path in DOCKERFILES] == ["jetpack6", "jetpack7"]
