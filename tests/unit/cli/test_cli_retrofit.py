"""The retrofit command's settings: each kind takes its own and says so about others."""

from __future__ import annotations

from pathlib import Path

import pytest

from moir_edge.cli.main import main


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--kind", "gate", "--top-k", "3"],
            "the gate router has no top_k; its settings are direction",
        ),
        (
            ["--kind", "channel", "--merge", "add"],
            "the channel router has no merge; its settings are ratio",
        ),
        (["--kind", "channel", "--direction", "auto"], "give both, text-to-image or image-to-text"),
        (["--kind", "chanel"], "kind: Input should be 'token', 'channel' or 'gate' (got 'chanel')"),
        (["--ratio", "1.5"], "ratio: Input should be less than or equal to 1 (got '1.5')"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["retrofit", "nowhere", "-o", str(tmp_path / "out"), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "see `moir-edge retrofit --help`" in error
    assert not list(tmp_path.iterdir())
