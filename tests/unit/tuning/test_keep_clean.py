"""`tune --keep-clean`: the divergence of the routed answers from the base's on clean rows, and on those alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moir_edge.cli.main import main
from moir_edge.data.rows import Row
from moir_edge.demo import checkpoint_path
from moir_edge.errors import DataError
from moir_edge.router import last_routing, router_disabled
from moir_edge.tuning import TuneSettings
from moir_edge.tuning.adapters import Adapters, train_only
from moir_edge.tuning.balancing.mwam import Mwam
from moir_edge.tuning.data import AnswerBatches, TrainingRow
from moir_edge.tuning.keep_clean import KeepClean
from moir_edge.tuning.objectives import Step


def _step(model: Any, processor: Any, rows: list[Row], conditions: list[str]) -> Step:
    end = processor.tokenizer.convert_tokens_to_ids("<end_of_utterance>")
    batches = AnswerBatches(processor, frozenset({end}))
    inputs = batches(rows)
    return Step(
        model=model,
        rows=[
            TrainingRow(row=row, original=row, condition=condition)
            for row, condition in zip(rows, conditions, strict=True)
        ],
        inputs=inputs,
        outputs=model(**inputs, use_cache=False),
        encode=batches,
    )


def _by_hand(model: Any, step: Step, counted: list[int]) -> float:
    """Return Σ p log(p/q) in float64, mean over a row's answer tokens, then over the rows."""
    model.eval()
    with router_disabled(model), torch.no_grad():
        base = model(**step.inputs, use_cache=False).logits.double().numpy()
    model.train()
    got = step.outputs.logits.detach().double().numpy()
    rows = []
    for row in counted:
        terms = []
        for at in np.flatnonzero(step.inputs["labels"][row].numpy() != -100) - 1:
            p, q = (np.exp(one[row, at]) / np.exp(one[row, at]).sum() for one in (base, got))
            terms.append(np.sum(p * np.log(p / q)))
        rows.append(np.mean(terms))
    return float(np.mean(rows))


def test_only_clean_rows_count_and_only_the_router_learns(
    model: Any, processor: Any, train_rows: list[Row]
) -> None:
    train_only(model, "router")
    torch.manual_seed(0)
    with (
        torch.no_grad()
    ):  # the shipped router keeps clean rows: one beside it has something to lose
        for weight in model.moir_router.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    model.train()
    step = _step(model, processor, train_rows[:3], ["clean", "blur=3px", "clean"])
    routing = last_routing(model)
    loss = KeepClean(1.0).loss(step)
    # float32 logits, of magnitudes around 10
    assert loss.item() == pytest.approx(_by_hand(model, step, [0, 2]), rel=1e-3)
    assert loss.item() > 1e-4
    loss.backward()
    assert {
        name.split(".")[0] for name, one in model.named_parameters() if one.grad is not None
    } == {"moir_router"}
    assert model.training
    assert last_routing(model) is routing
    none = KeepClean(1.0).loss(_step(model, processor, train_rows[:2], ["blur=3px", "text-blank"]))
    assert none.item() == 0.0


def test_pictures_of_a_row_that_lie_in_one_list_are_not_cut(
    model: Any, processor: Any, train_rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A family whose pixels are one list of all images sees the whole batch; rows that are not clean do not count."""
    model.train()
    step = _step(model, processor, train_rows[:3], ["clean", "blur=3px", "clean"])
    expected = KeepClean(1.0).loss(step).item()
    seen = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    KeepClean(1.0).loss(step)
    monkeypatch.setattr("moir_edge.tuning.keep_clean._has_entry_per_row", lambda *_: False)
    # other batches, other order of sums
    assert KeepClean(1.0).loss(step).item() == pytest.approx(expected, rel=1e-3)
    assert seen == [2, 3]


def test_the_base_has_no_adapters(model: Any, processor: Any, train_rows: list[Row]) -> None:
    with torch.no_grad(), router_disabled(model):
        base = model.eval()(**_step(model, processor, train_rows[:2], ["clean"] * 2).inputs).logits
    adapters = Adapters(model, 4, 0)
    train_only(model, "lora")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    model.train()
    step = _step(model, processor, train_rows[:2], ["clean"] * 2)
    with adapters.disabled(), router_disabled(model), torch.no_grad():
        torch.testing.assert_close(model.eval()(**step.inputs).logits, base, rtol=0, atol=0)
    model.train()
    loss = KeepClean(1.0, adapters).loss(step)
    assert loss.item() > 1e-4
    loss.backward()
    trained = [one for name, one in model.named_parameters() if ".lora_" in name]
    assert trained
    assert all(one.requires_grad and one.grad is not None for one in trained)


def test_mwam_does_not_measure_the_base(model: Any, processor: Any, train_rows: list[Row]) -> None:
    mwam = Mwam(model, "gradient")
    model.train()
    step = _step(model, processor, train_rows[:2], ["clean"] * 2)
    before = mwam.record()
    KeepClean(1.0).loss(step)
    assert mwam.record() == before
    mwam.detach()


def test_the_command_keeps_clean_answers_and_says_how_close(
    train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "tuned"
    words = ["tune", str(checkpoint_path()), "-o", str(output), "--data", str(train_file)]
    more = ["--steps", "2", "--batch-size", "3", "--learning-rate", "0.01", "-q"]
    assert main([*words, *more, "--keep-clean", "0.5", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["keep_clean"] == 0.5
    course = report["objectives"]["keep_clean"]
    assert course["weight"] == 0.5
    assert course["first"] > 0
    steps = [entry for entry in report["log"] if "loss" in entry]
    assert [entry["loss_keep_clean"] for entry in steps] == [course["first"], course["last"]]
    assert main([*words, *more, "--keep-clean", "0.5", "--force"]) == 0
    assert re.search(
        r"^keep clean, weight 0\.5: \d\.\d{4} at the first log entry, \d\.\d{4} at the last$",
        capsys.readouterr().out,
        re.MULTILINE,
    )


def test_refused_where_it_has_no_meaning(
    train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError) as full:
        TuneSettings(train="full", keep_clean=1.0)
    assert str(full.value) == (
        "tune: keep_clean compares with the base's answers, but `full` trains the base's weights too; "
        "train `router` or `lora`, or leave keep_clean out"
    )
    with pytest.raises(DataError) as none:
        TuneSettings(degrade=("blur=3px",), degrade_share=1, keep_clean=1.0)
    assert str(none.value) == (
        "tune: keep_clean is for clean rows, but with a degrade_share of 1 no row is clean; "
        "give a smaller share, or leave keep_clean out"
    )
    with pytest.raises(DataError, match=r"keep_clean is 0\.0; it must be more than 0, and finite"):
        TuneSettings(keep_clean=0)
    words = ["tune", str(checkpoint_path()), "-o", str(tmp_path / "x"), "--data", str(train_file)]
    assert main([*words, "--train", "full", "--keep-clean", "1"]) == 2
    assert "the base's weights too" in capsys.readouterr().err
