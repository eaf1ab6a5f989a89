from __future__ import annotations

import os
from typing import Any

import pytest
import typer

from moir_edge.cli.main import COMMANDS, build_app, main
from moir_edge.image_limit import IMAGE_PIXELS_VARIABLE

READ_NO_IMAGES = {"build", "demo", "doctor", "inspect", "retrofit", "targets"}


def test_every_command_that_reads_images_has_the_flag() -> None:
    commands: dict[str, Any] = typer.main.get_command(build_app()).commands  # type: ignore[attr-defined]
    flagged = {
        name
        for name, command in commands.items()
        if any("--max-image-pixels" in one.opts for one in command.params)
    }
    assert flagged == set(COMMANDS) - READ_NO_IMAGES


@pytest.mark.parametrize("value", ["0", "-3", "178956971", "many"])
def test_a_limit_out_of_range_is_one_line(capsys: pytest.CaptureFixture[str], value: str) -> None:
    assert main(["run", "bundle", "-p", "what?", "--max-image-pixels", value]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: Invalid value for '--max-image-pixels': ")


def test_the_limit_ends_with_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "no-bundle", "-p", "what?", "--max-image-pixels", "5"]) == 2
    capsys.readouterr()
    assert IMAGE_PIXELS_VARIABLE not in os.environ
