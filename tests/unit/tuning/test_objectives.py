"""Auxiliary objectives: added by their weights, logged apart, taken off again, the same after a resumption."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moir_edge.data.rows import Row
from moir_edge.demo import checkpoint_path
from moir_edge.errors import DataError
from moir_edge.progress import silent
from moir_edge.tuning import TuneSettings, run, tune
from moir_edge.tuning.adapters import train_only
from moir_edge.tuning.data import AnswerBatches, RowSet, as_they_are
from moir_edge.tuning.objectives import LossParts, Objective, Step, attached
from moir_edge.tuning.trainer import RouterTrainer, build_trainer


class _SizeOfUp(Objective):
    """Σ W_o² of the words; its gradient is known."""

    name = "size_of_up"

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.steps: list[Step] = []

    def hooks(self, model: Any) -> list[Any]:
        return [model.register_forward_hook(lambda *_: None)]

    def loss(self, step: Step) -> Tensor:
        self.steps.append(step)
        weight: Tensor = step.model.moir_router.text.up.weight
        return weight.square().sum()


def _trainer(
    model: Any, processor: Any, rows: Sequence[Row], objectives: Sequence[Objective], folder: Path
) -> RouterTrainer:
    train_only(model, "router")
    return build_trainer(
        model, TuneSettings(steps=1, batch_size=2), batches=AnswerBatches(processor, frozenset({2})),
        train=RowSet(as_they_are(rows)), evaluation=None, training=folder,
        objectives=objectives, progress=silent,
    )  # fmt: skip


def test_the_sum_has_the_objective_by_its_weight(
    model: Any, processor: Any, train_rows: list[Row], tmp_path: Path
) -> None:
    objective = _SizeOfUp(0.25)
    with_it = _trainer(model, processor, train_rows, [objective], tmp_path)
    alone = _trainer(model, processor, train_rows, [], tmp_path)
    inputs = with_it.data_collator(as_they_are(train_rows[:2]))
    up = model.moir_router.text.up.weight
    losses, gradients = [], []
    for trainer in (alone, with_it):
        trainer.create_optimizer_and_scheduler(1)
        model.train().zero_grad()
        loss = trainer.compute_loss(model, inputs)
        loss.backward()
        losses.append(loss.item())
        gradients.append(up.grad.clone())
    size = up.square().sum().item()
    assert size > 0
    # one rounding of the sum
    assert losses[1] - losses[0] == pytest.approx(0.25 * size, rel=1e-4)
    torch.testing.assert_close(gradients[1] - gradients[0], 0.5 * up.detach())
    model.eval()
    evaluated = [trainer.compute_loss(model, inputs).item() for trainer in (alone, with_it)]
    assert evaluated[0] == evaluated[1]
    (step,) = objective.steps
    assert [row.row for row in step.rows] == train_rows[:2]
    assert "labels" in step.inputs
    again = step.encode(train_rows[:2])
    assert torch.equal(again["input_ids"], step.inputs["input_ids"])


def test_parts_are_means_since_they_were_last_taken() -> None:
    parts = LossParts()
    assert parts.take() == {}
    parts.add({"answers": torch.tensor(1.0), "other": torch.tensor(0.0)})
    parts.add({"answers": torch.tensor(2.0), "other": torch.tensor(0.5)})
    assert parts.take() == {"loss_answers": 1.5, "loss_other": 0.25}
    assert parts.take() == {}


def test_hooks_come_off_after_a_failure() -> None:
    module = torch.nn.Identity()

    def fail() -> None:
        with attached([_SizeOfUp(1.0)], module):
            assert len(module._forward_hooks) == 1
            raise DataError("stopped")

    with pytest.raises(DataError):
        fail()
    assert not module._forward_hooks


def test_a_resumed_run_logs_and_ends_as_an_uninterrupted_one(
    train_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at the end of its second step; the log of the first comes from the checkpoint."""
    monkeypatch.setattr(run, "_objectives", lambda *_: [_SizeOfUp(0.1)])
    settings = TuneSettings(steps=3, batch_size=3, checkpoint_every=1)
    whole = tune(checkpoint_path(), tmp_path / "whole", train_file, settings=settings)
    output = tmp_path / "tuned"

    def stop(stage: str, done: int, _: int) -> None:
        if (stage, done) == ("tuning", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(checkpoint_path(), output, train_file, settings=settings, progress=stop)
    resumed = tune(checkpoint_path(), output, train_file, settings=settings, resume=True)

    def parts(report: Any) -> list[tuple[float, float]]:
        return [(e["loss_answers"], e["loss_size_of_up"]) for e in report.log if "loss" in e]

    assert len(parts(whole)) == 3
    # sums of floats may come in another order
    assert parts(resumed)[0] == pytest.approx(parts(whole)[0], rel=1e-5)
    assert parts(resumed)[2] == pytest.approx(parts(whole)[2], rel=1e-4)
    course = whole.objectives["size_of_up"]
    assert course == {"weight": 0.1, "first": parts(whole)[0][1], "last": parts(whole)[-1][1]}
    for entry, (answers, size) in zip(
        (e for e in whole.log if "loss" in e), parts(whole), strict=True
    ):
        # the Trainer rounds to four digits behind the point
        assert entry["loss"] == pytest.approx(answers + 0.1 * size, abs=1e-4)
    stored = json.loads((tmp_path / "whole" / "tuning.json").read_text())
    assert stored["objectives"] == whole.objectives
