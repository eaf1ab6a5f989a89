"""What the README tells a newcomer to type exists, flag by flag."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from moir_edge.cli.main import COMMANDS, main

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
LINES = re.findall(r"^(?:    )?\$? ?(moir-edge .+?)$", README.replace("\\\n", " "), flags=re.M)


def test_readme_shows_the_main_commands() -> None:
    shown = {shlex.split(line)[1] for line in LINES}
    assert {"retrofit", "export", "build", "run", "compare"} <= shown <= set(COMMANDS)


@pytest.mark.parametrize("line", LINES)
def test_every_flag_exists(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line)
    assert main([words[1], "--help"]) == 0
    text = capsys.readouterr().out
    for word in words[2:]:
        if word.startswith("-"):
            assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text), word


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^    make (\w+)", README, flags=re.M):
        assert re.search(rf"^{target}:", makefile, flags=re.M)
