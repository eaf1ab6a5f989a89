"""`tune --rank-density`: the loss worked by hand, what it teaches, and what it leaves alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from moir_edge.cli.main import main
from moir_edge.data.rows import Row
from moir_edge.demo import checkpoint_path
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.router import RouterConfig, last_routing, remove_router, retrofit, router_disabled
from moir_edge.tuning import TuneSettings
from moir_edge.tuning.adapters import train_only
from moir_edge.tuning.data import AnswerBatches, TrainingRow
from moir_edge.tuning.objectives import Step
from moir_edge.tuning.rank_density import RankDensity, loss_of_content, ranking_loss
from moir_edge.tuning.router_inputs import router_inputs


def _step(model: Any, processor: Any, rows: list[Row]) -> Step:
    batches = AnswerBatches(processor, frozenset({2}))
    inputs = batches(rows)
    return Step(
        model=model,
        rows=[TrainingRow(row=row, original=row) for row in rows],
        inputs=inputs,
        outputs=None,
        encode=batches,
    )


def test_the_loss_by_hand() -> None:
    z, degraded = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 3.0]])
    by_hand = (1.0 * math.log1p(math.exp(-1)) + 0.5 * math.log1p(math.exp(3))) / 1.5
    found = ranking_loss(z, degraded, torch.tensor([[1.0, 0.5]]))
    assert found.item() == pytest.approx(by_hand, rel=1e-6)  # float32
    assert ranking_loss(z, degraded, torch.zeros(1, 2)).item() == 0.0


def test_what_a_token_lost_by_hand() -> None:
    clean = torch.tensor([[[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]])
    other = torch.tensor([[[3.0, 5.0, 7.0], [3.0, 2.0, 1.0], [1.0, -2.0, 1.0]]])
    # The same up to scale and offset, reversed, and uncorrelated.
    assert loss_of_content(clean, other)[0].tolist() == pytest.approx([0, 2, 1], abs=1e-6)


def test_the_language_model_does_not_run_and_nothing_stays_behind(
    model: Any, processor: Any, train_rows: list[Row]
) -> None:
    """The positions are those of a whole forward pass, whose logits are the same before and after."""
    inputs = _step(model, processor, train_rows[:3]).inputs
    with torch.no_grad():
        before = model(**inputs).logits
    whole = last_routing(model)
    calls: list[int] = []
    handle = model.get_decoder().register_forward_hook(lambda *_: calls.append(1))
    found = router_inputs(model, inputs)
    handle.remove()
    assert calls == []
    assert torch.equal(found.image_positions, whole.image_positions)
    assert torch.equal(found.text_mask, whole.text_mask)
    assert not found.inputs_embeds.requires_grad
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, before)
    with (
        router_disabled(model),
        pytest.raises(UnsupportedError, match="answered without its router"),
    ):
        router_inputs(model, inputs)


def test_it_teaches_the_density_of_the_picture_alone(
    model: Any, processor: Any, train_rows: list[Row], tmp_path: Path
) -> None:
    train_only(model, "router")
    model.train()
    objective = RankDensity(1.0, model, ("blur=3px", "text-blank"), tmp_path / "pairs", seed=0)
    step = _step(model, processor, train_rows)
    loss = objective.loss(step)
    loss.backward()
    sizes = {
        name: one.grad.abs().max().item()
        for name, one in model.named_parameters()
        if one.grad is not None
    }
    # A shift of all densities changes no rank: the gradients of both biases are roundings.
    assert {name for name, size in sizes.items() if size > 1e-6} == {
        "moir_router.image.norm.weight",
        "moir_router.image.head.weight",
    }
    assert objective.loss(step).item() == loss.item()
    assert all(path.suffix == ".png" for path in (tmp_path / "pairs").iterdir())


def test_a_few_steps_turn_the_density_the_right_way_round(
    model: Any, processor: Any, train_rows: list[Row], tmp_path: Path
) -> None:
    """The shipped router's density is high on digits, so its sign is turned; after some steps clean cells rank above masked ones."""
    train_only(model, "router")
    with torch.no_grad():
        model.moir_router.image.head.weight.neg_()
    objective = RankDensity(1.0, model, (), tmp_path / "pairs", seed=0)
    step = _step(model, processor, train_rows)
    optimiser = torch.optim.Adam(model.moir_router.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = objective.loss(step)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > math.log(2)  # the loss of a density that says nothing
    assert losses[-1] < 0.5 * math.log(2)


def test_the_command_says_how_the_ranking_went(
    train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["tune", str(checkpoint_path()), "-o", str(tmp_path / "tuned"), "--data"]
    more = ["--steps", "2", "--batch-size", "3", "--rank-density", "0.5", "-q", "--json"]
    assert main([*words, str(train_file), *more]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["rank_density"] == 0.5
    assert report["objectives"]["rank_density"]["first"] > 0
    assert not list(tmp_path.glob("*unfinished*"))


@pytest.mark.parametrize(
    ("config", "got"),
    [
        (RouterConfig(kind="gate"), "a gate router"),
        (RouterConfig(density="entropy"), "a token router with density entropy"),
        (None, "no router"),
    ],
)
def test_a_router_without_a_density_head_is_refused(
    model: Any, tmp_path: Path, config: RouterConfig | None, got: str
) -> None:
    remove_router(model)
    if config is not None:
        retrofit(model, config, special_token_ids=())
    with pytest.raises(DataError) as error:
        RankDensity(1.0, model, (), tmp_path, seed=0)
    assert str(error.value) == (
        f"tune: rank_density teaches the density head of a token router, but the checkpoint has {got}; "
        "retrofit it with kind token and density confidence"
    )


def test_the_weight_is_a_number_above_0() -> None:
    with pytest.raises(
        DataError, match=r"rank_density is 0\.0; it must be more than 0, and finite"
    ):
        TuneSettings(rank_density=0)
