"""Train what `tune` does not know, with its trainer and objectives: attention reweighting, and controls of a router's size."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.study.arms import EQUAL_LORA, REWEIGHTING, Arm
from benchmarks.study.controls import (
    become,
    equal_config,
    lora_ranks,
    router_weights,
)
from benchmarks.study.reweighting import AttentionReweighting
from moir_edge.checkpoint import load_checkpoint, write_checkpoint
from moir_edge.data.rows import read_rows
from moir_edge.finite import json_text
from moir_edge.json_files import read_object
from moir_edge.progress import Progress
from moir_edge.router import retrofit, special_token_ids
from moir_edge.tuning import TuneSettings

__all__ = ["attach_control", "train_control"]

_BIASES = "reweighting.safetensors"
_CONTROL = "control.json"


def train_control(
    arm: Arm, tuning: TuneSettings, *, base: Path, data: Path, folder: Path, progress: Progress
) -> tuple[int, tuple[float, float]]:
    """Train an arm's control and write it to `tuned` in a folder; `attach_control` makes it whole again.

    Args:
        arm: An arm with a control.
        tuning: Its budget, seed and objectives.
        base: The checkpoint without router.
        data: Training rows.
        folder: An empty folder for checkpoints.
        progress: Called as ``progress(stage, done, total)``.

    Returns:
        How many weights were trained, and the first and last training loss.
    """
    from moir_edge.tuning.adapters import Adapters

    loaded = load_checkpoint(base, exported=False)
    model: Any = loaded.model
    model.requires_grad_(False)
    model.set_attn_implementation("eager")  # fused attention may do without the mask of the biases
    adapters: Adapters | None = None
    if arm.control == REWEIGHTING:
        module = _reweighting(model, frozenset(special_token_ids(loaded.tokenizer)))
    elif arm.control == EQUAL_LORA:
        ranks = lora_ranks(model, router_weights(_router(arm), _hidden(model)))
        adapters = Adapters(model, 1, tuning.seed, ranks=ranks)
    else:
        torch.manual_seed(tuning.seed)
        config = equal_config(_router(arm), _hidden(model), str(arm.control))
        become(retrofit(model, config, tokenizer=loaded.tokenizer), str(arm.control))
    count = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    losses = _trained(loaded, tuning, adapters, data, folder, progress)
    tuned = folder / "tuned"
    if arm.control == REWEIGHTING:
        shutil.copytree(base, tuned)
        save_file(module.state_dict(), tuned / _BIASES)
        return count, losses
    if adapters is not None:
        adapters.merge()
    _write(arm, loaded, base, tuned)
    return count, losses


def attach_control(model: Any, special_ids: frozenset[int], folder: Path) -> None:
    """Make a control of the model that was loaded from the folder of one; does nothing for a run of another arm."""
    if (folder / _BIASES).is_file():
        model.set_attn_implementation("eager")
        _reweighting(model, special_ids).load_state_dict(load_file(folder / _BIASES))
    if (folder / _CONTROL).is_file():
        become(model.moir_router, read_object(folder / _CONTROL, remedy="train it again")["router"])


def _trained(
    loaded: Any,
    tuning: TuneSettings,
    adapters: Any,
    data: Path,
    folder: Path,
    progress: Progress,
) -> tuple[float, float]:
    """Train the weights that require a gradient, and return the first and the last loss."""
    from moir_edge.tuning.data import AnswerBatches, RowSet
    from moir_edge.tuning.degrading import degraded_share
    from moir_edge.tuning.keep_clean import KeepClean
    from moir_edge.tuning.trainer import build_trainer

    batches = AnswerBatches(loaded.processor, frozenset(loaded.end_ids))
    rows = degraded_share(
        read_rows(data), tuning.degrade, tuning.degrade_share, folder, seed=tuning.seed
    )
    objectives = [] if tuning.keep_clean is None else [KeepClean(tuning.keep_clean, adapters)]
    trainer = build_trainer(
        loaded.model, tuning, batches=batches, train=RowSet(rows), evaluation=None,
        training=folder / "training", objectives=objectives, progress=progress,
    )  # fmt: skip
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses[0], losses[-1]


def _write(arm: Arm, trained: Any, base: Path, tuned: Path) -> None:
    """Write the weights with the config that they were loaded with, which training changes."""
    again: Any = load_checkpoint(base, exported=False)
    if arm.control != EQUAL_LORA:
        retrofit(again.model, trained.model.moir_router.config, tokenizer=again.tokenizer)
    again.model.load_state_dict(trained.model.state_dict())
    tuned.mkdir()
    write_checkpoint(again.model, base, tuned)
    if arm.control != EQUAL_LORA:
        (tuned / _CONTROL).write_text(json_text({"router": arm.control}))


def _reweighting(model: Any, special_ids: frozenset[int]) -> AttentionReweighting:
    """Attach fresh biases."""
    module = AttentionReweighting(model, special_ids)
    model.add_module("reweighting", module)
    return module


def _router(arm: Arm) -> Any:
    """Return the settings of the router whose size the control has."""
    return arm.router


def _hidden(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[1])
