"""A run that diverges stops at once, in one line that names step, rows and learning rate, and leaves nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from moir_edge import checkpoint
from moir_edge.cli.main import main
from moir_edge.demo import checkpoint_path
from moir_edge.errors import DataError, NotFiniteError
from moir_edge.router import load_retrofitted
from moir_edge.tuning import TuneSettings, training_folder, tune
from moir_edge.tuning.divergence import DivergenceGuard, require_finite_weights

NAN = torch.tensor(math.nan)


@pytest.fixture
def guard() -> DivergenceGuard:
    guard = DivergenceGuard(1e-3)
    guard.begin(12, ["a", "b", "c", "d", "e"], 9e-4)
    return guard


def _line(check: Callable[[], None]) -> str:
    with pytest.raises(NotFiniteError) as caught:
        check()
    return str(caught.value)


STEP_12 = "rows a, b, c and 2 more, learning rate 9.00e-04; nothing was written; tune with a learning_rate below 0.001"


def test_what_is_not_finite_is_named(guard: DivergenceGuard) -> None:
    model = nn.Linear(2, 1)
    guard.check_loss(torch.tensor(0.5))
    assert _line(lambda: guard.check_loss(NAN)) == (
        f"tuning diverged at step 12: the loss is nan, {STEP_12}"
    )
    model.weight.grad = torch.tensor([[1.0, math.inf]])
    assert _line(lambda: guard.check_gradients(model)) == (
        f"tuning diverged at step 12: the gradient of 'weight' is not finite, {STEP_12}"
    )
    guard.check_weights(model)
    with torch.no_grad():
        model.bias.fill_(math.nan)
    assert _line(lambda: guard.check_weights(model)) == (
        f"tuning diverged at step 12: the weight 'bias' is not finite after it, {STEP_12}"
    )
    assert _line(lambda: require_finite_weights(model)) == (
        "the tuned weight 'bias' is not finite; nothing was written; tune with a smaller learning_rate"
    )


def test_a_gradient_whose_norm_overflows_is_not_clipped_to_nothing(guard: DivergenceGuard) -> None:
    model = nn.Linear(2, 1)
    model.weight.grad = torch.tensor([[1e30, 1e30]])  # its squares pass float32
    assert "the gradient of 'weight' is not finite" in _line(lambda: guard.check_gradients(model))
    model.weight.grad = torch.tensor([[1e18, 1.0]])
    guard.check_gradients(model)


def test_weights_that_are_not_trained_are_the_checkpoints_matter(guard: DivergenceGuard) -> None:
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    with torch.no_grad():
        model.bias.fill_(math.nan)
    guard.check_weights(model)


def test_before_the_first_update_the_checkpoint_is_the_cause(guard: DivergenceGuard) -> None:
    cause = "nothing was written; no weight had changed yet, so look at the checkpoint and at these rows"
    guard.begin(1, ["a"], 0.0)
    assert _line(lambda: guard.check_loss(NAN)) == (
        f"tuning diverged at step 1: the loss is nan, rows a, learning rate 0.00e+00; {cause}"
    )
    assert _line(lambda: guard.check_evaluation(NAN, ["x"], 0)) == (
        f"the loss on the evaluation rows x is nan after 0 steps; {cause}"
    )
    assert _line(lambda: guard.check_evaluation(NAN, ["x"], 5)) == (
        "the loss on the evaluation rows x is nan after 5 steps; nothing was written; "
        "tune with a learning_rate below 0.001"
    )


@pytest.mark.parametrize("part", ["router", "full"])
def test_a_learning_rate_that_is_too_large_stops_the_command(
    part: str, train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "tuned"
    words = ["tune", checkpoint_path(), "-o", output, "--data", train_file, "--batch-size", 3]
    words += ["--steps", 8, "--learning-rate", "1e30", "--train", part, "--checkpoint-every", 1]
    assert main([str(word) for word in words]) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: tuning diverged at step ")
    assert error.endswith("; nothing was written; tune with a learning_rate below 1e+30")
    assert "-train-0-00000" in error.partition(": the loss is nan, rows ")[2]
    assert sorted(tmp_path.iterdir()) == []
    assert not training_folder(output).exists()


def test_a_nan_in_an_evaluation_stops_the_run_before_its_first_step(
    train_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = load_retrofitted(checkpoint_path(), dtype=torch.float32)
    with torch.no_grad():
        broken.get_submodule("lm_head").weight[5] = math.nan
    _loads(broken, monkeypatch)
    settings = TuneSettings(steps=1, batch_size=3)
    with pytest.raises(
        NotFiniteError, match="is nan after 0 steps; nothing was written; no weight"
    ):
        tune(
            checkpoint_path(),
            tmp_path / "tuned",
            train_file,
            eval_data=train_file,
            settings=settings,
        )
    assert sorted(tmp_path.iterdir()) == []


def _loads(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loader give a model that was broken after it was read."""
    real = checkpoint.load_checkpoint
    monkeypatch.setattr(
        "moir_edge.checkpoint.load_checkpoint",
        lambda *words, **named: replace(real(*words, **named), model=model),
    )


@pytest.mark.parametrize("name", ["learning_rate", "epochs"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_settings_are_finite(name: str, value: float) -> None:
    with pytest.raises(DataError) as caught:
        TuneSettings(**{name: value})  # type: ignore[arg-type]
    assert str(caught.value) == f"tune: {name} is {value}; it must be more than 0, and finite"
