"""Every family under `tune`: the router learns, and the rest of the checkpoint stays to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from moir_edge.export import TracedModel
from moir_edge.tuning import TuneSettings, tune

pytestmark = [pytest.mark.slow, pytest.mark.proves("tune")]


def test_two_steps_change_the_router_alone(
    traced: TracedModel, question_file: Path, tmp_path: Path
) -> None:
    source, tuned = traced.checkpoint.folder, tmp_path / "tuned"
    settings = TuneSettings(steps=2, batch_size=2, keep_clean=0.5)
    tune(source, tuned, question_file, settings=settings)
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tuned))
    assert before.keys() == after.keys()
    changed = {name for name, value in before.items() if not after[name].equal(value)}
    assert changed
    assert all(name.startswith("moir_router.") for name in changed)
    log = json.loads((tuned / "tuning.json").read_text())["log"]
    steps = [entry for entry in log if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2]
    # the family's base answers with the router off, and the router's weights are not zero here
    assert all(entry["loss_keep_clean"] > 0 for entry in steps)
