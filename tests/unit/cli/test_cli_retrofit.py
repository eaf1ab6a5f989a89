"""The retrofit command's settings: each kind takes its own and says so about others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoProcessor

from moir_edge.cli.main import main
from moir_edge.demo import checkpoint_path
from moir_edge.router import load_retrofitted, remove_router


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
        (["--learned-gate", "--ratio", "0.5"], "a learned gate finds its own edge; leave ratio"),
        (["--kind", "gate", "--learned-gate"], "the gate router has no learned_gate"),
        (["--kind", "gate", "--rank", "8"], "the gate router has no rank"),
        (["--rank", "0"], "rank: Input should be greater than or equal to 1 (got '0')"),
        (["--threshold", "2"], "threshold: Input should be less than or equal to 1 (got '2.0')"),
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


def test_every_setting_of_the_token_router_can_be_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_retrofitted(checkpoint_path())
    remove_router(model)
    model.save_pretrained(tmp_path / "vlm")
    AutoProcessor.from_pretrained(checkpoint_path()).save_pretrained(tmp_path / "vlm")
    capsys.readouterr()
    settings = {
        "density": "entropy", "ratio": 0.25, "threshold": 0.5, "top_k": 2, "rank": 16,
        "merge": "concat", "direction": "image-to-text",
    }  # fmt: skip
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    command = ["retrofit", str(tmp_path / "vlm"), "-o", str(tmp_path / "routed"), "--json"]
    assert main([*command, *flags]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert settings.items() <= summary["router"].items()
    hidden = 192
    # query, up, own; key, down; two LayerNorms
    assert summary["router_parameters"] == 5 * 16 * hidden + 4 * hidden
    learned = [*command[:3], str(tmp_path / "learned"), "--json", "--learned-gate", "--rank", "16"]
    assert main([*learned, "--direction", "image-to-text"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["router"]["learned_gate"] is True
    assert summary["router"]["ratio"] is None
    # query, up; key, down; two LayerNorms and two heads; an edge and a slope
    assert summary["router_parameters"] == 4 * 16 * hidden + 6 * hidden + 2 + 2


def test_the_weights_can_be_read_by_whoever_can_read_the_config(
    tmp_path: Path, make_checkpoint: Callable[..., Path]
) -> None:
    """safetensors makes its files for their owner alone, whatever the mask."""
    before = os.umask(0o022)
    try:
        assert main(["retrofit", str(make_checkpoint("llava")), "-o", str(tmp_path / "out")]) == 0
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert set(modes.values()) == {0o644}, modes
