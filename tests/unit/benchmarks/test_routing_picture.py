"""The picture of the shipped checkpoint's routing map."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.routing_picture import main


def test_the_command_draws_the_question_of_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "map.png"
    assert main([str(picture)]) == 0
    assert capsys.readouterr().out.strip() == (
        f"{picture}: There is a green 1 at the top left. What size is the green digit? large"
    )
    with Image.open(picture) as drawn, Image.open("docs/routing-map.png") as shown:
        assert drawn.size[0] == shown.size[0]
