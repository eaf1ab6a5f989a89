"""`tune --balance-method`: every method trains the shipped model, and those that draw or keep a state resume alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from moir_edge.cli.main import main
from moir_edge.demo import checkpoint_path
from moir_edge.tuning import BALANCE_METHODS, TuneSettings, training_folder, tune
from moir_edge.tuning.balancing.build import METHODS, OBJECTIVES

FIGURES = {
    "mwam-gradient": ("frm", "k"),
    "mwam-loss": ("frm", "k"),
    "mwam-hybrid": ("frm", "k"),
    "ogm-ge": ("score", "k"),
    "opm": ("score", "q"),
    "mmpareto": ("joint_weight",),
    "functional-entropy": (),
    "shapley-alternation": ("phi", "trained"),
}
RESUMED = ("ogm-ge", "opm", "functional-entropy", "shapley-alternation")


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo with a router of both directions."""
    from moir_edge.checkpoint import load_checkpoint, write_checkpoint
    from moir_edge.router import RouterConfig, remove_router, retrofit

    loaded = load_checkpoint(checkpoint_path(), exported=False)
    remove_router(loaded.model)
    torch.manual_seed(0)
    retrofit(loaded.model, RouterConfig(rank=4), tokenizer=loaded.tokenizer)
    folder = tmp_path_factory.mktemp("both") / "routed"
    folder.mkdir()
    write_checkpoint(loaded.model, loaded.folder, folder)
    return folder


def test_every_method_has_a_name_and_figures() -> None:
    assert set(BALANCE_METHODS) == METHODS.keys() | OBJECTIVES.keys() == FIGURES.keys()


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in RESUMED])
def test_a_run_with_each_method(
    name: str, routed: Path, train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["tune", routed, "-o", tmp_path / "tuned", "--data", train_file, "--steps", 2]
    words += ["--batch-size", 3, "--balance-method", name]
    assert main([str(word) for word in words]) == 0
    line = f"{name}, last step: "
    assert capsys.readouterr().out.count(line) == 1
    _check_report(name, tmp_path / "tuned")


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_ends_with_the_same_weights(
    name: str, routed: Path, train_file: Path, tmp_path: Path
) -> None:
    settings = TuneSettings(steps=3, batch_size=2, checkpoint_every=1, balance_method=name)
    tune(routed, tmp_path / "whole", train_file, settings=settings)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "tuning" and done == 2:
            raise KeyboardInterrupt

    output = tmp_path / "tuned"
    with pytest.raises(KeyboardInterrupt):
        tune(routed, output, train_file, settings=settings, progress=stop)
    assert (training_folder(output) / "checkpoint-1" / "complete.json").exists()
    tune(routed, output, train_file, settings=settings, resume=True)
    whole, resumed = (load_file(tmp_path / one / "model.safetensors") for one in ("whole", "tuned"))
    for key, value in whole.items():
        assert resumed[key].equal(value), key
    reports = [_check_report(name, tmp_path / one) for one in ("whole", "tuned")]
    assert reports[0]["balance"] == reports[1]["balance"]


def _check_report(name: str, folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "tuning.json").read_text())
    expected = {f"{figure}_{side}" for figure in FIGURES[name] for side in ("image", "text")}
    assert report["balance"].keys() == expected
    steps = [entry for entry in report["log"] if "loss" in entry]
    assert all(expected <= entry.keys() for entry in steps)
    is_objective = name in OBJECTIVES
    assert all(("loss_functional_entropy" in entry) == is_objective for entry in steps)
    assert report["objectives"].keys() == ({"functional_entropy"} if is_objective else set())
    return report
