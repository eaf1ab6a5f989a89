"""Make one run's model: attach what the arm has, tune it with the study's budget."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.study.arms import Arm
from benchmarks.study.reweighting import AttentionReweighting
from benchmarks.study.settings import StudySettings
from moir_edge.checkpoint import load_checkpoint, write_checkpoint
from moir_edge.data.rows import read_rows
from moir_edge.progress import Progress
from moir_edge.router import load_retrofitted, remove_router, retrofit, special_token_ids
from moir_edge.tuning import TuneSettings, tune

__all__ = ["Trained", "attach_reweighting", "base_checkpoint", "train_arm"]

_REWEIGHTING = "reweighting.safetensors"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model ready to be measured: its folder, how many weights were trained, first and last training loss."""

    folder: Path
    parameters: int = 0
    losses: tuple[float, float] | None = None


def base_checkpoint(source: Path, folder: Path) -> Path:
    """Write the demo checkpoint without its router."""
    model = load_retrofitted(source)
    remove_router(model)
    return _saved(model, source, folder)


def train_arm(
    arm: Arm,
    seed: int,
    settings: StudySettings,
    *,
    base: Path,
    data: Path,
    folder: Path,
    progress: Progress,
) -> Trained:
    """Train an arm with one seed.

    Args:
        arm: The arm.
        seed: Of the fresh weights and of the order of the rows.
        settings: The budget.
        base: The checkpoint without router.
        data: Training rows.
        folder: An empty folder for checkpoints.
        progress: Called as ``progress(stage, done, total)``.
    """
    tuning = _tuning(arm, seed, settings)
    if tuning is None:
        return Trained(folder=base)
    if arm.reweighting:
        return _train_reweighting(tuning, base, data, folder, progress)
    start = base if arm.router is None else _retrofitted(arm, seed, base, folder / "fresh")
    report = tune(start, folder / "tuned", data, settings=tuning, progress=progress)
    return Trained(
        folder=folder / "tuned",
        parameters=report.trained_parameters,
        losses=(report.first_loss, report.last_loss),
    )


def attach_reweighting(model: Any, special_ids: frozenset[int], folder: Path) -> None:
    """Put the learned biases of a reweighting run on a model; does nothing for a run of another arm."""
    stored = folder / _REWEIGHTING
    if stored.is_file():
        module = _reweighting(model, special_ids)
        module.load_state_dict(load_file(stored))


def _tuning(arm: Arm, seed: int, settings: StudySettings) -> TuneSettings | None:
    if arm.train is None:
        return None
    return TuneSettings(
        train=arm.train,
        lora_rank=settings.lora_rank if arm.train == "lora" else None,
        mwam=arm.mwam,
        steps=settings.steps,
        learning_rate=arm.learning_rate or settings.learning_rate,
        batch_size=settings.batch_size,
        seed=seed,
        checkpoint_every=settings.steps,
        dtype=settings.dtype,
        degrade=settings.degrade,
        degrade_share=settings.degrade_share,
    )


def _retrofitted(arm: Arm, seed: int, base: Path, folder: Path) -> Path:
    loaded = load_checkpoint(base, exported=False)
    torch.manual_seed(seed)
    retrofit(loaded.model, arm.router, tokenizer=loaded.tokenizer)
    return _saved(loaded.model, base, folder)


def _train_reweighting(
    tuning: TuneSettings, base: Path, data: Path, folder: Path, progress: Progress
) -> Trained:
    """Train the biases; `tune` knows routers and adapters only, so its trainer is called here."""
    from moir_edge.tuning.data import AnswerBatches, RowSet
    from moir_edge.tuning.degrading import degraded_share
    from moir_edge.tuning.trainer import build_trainer

    loaded = load_checkpoint(base, exported=False)
    model: Any = loaded.model
    model.requires_grad_(False)
    module = _reweighting(model, frozenset(special_token_ids(loaded.tokenizer)))
    batches = AnswerBatches(loaded.processor, frozenset(loaded.end_ids))
    rows = degraded_share(
        read_rows(data), tuning.degrade, tuning.degrade_share, folder, seed=tuning.seed
    )
    trainer = build_trainer(
        model, tuning, batches=batches, train=RowSet(rows), evaluation=None,
        training=folder / "training", mwam=None, progress=progress,
    )  # fmt: skip
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tuned = folder / "tuned"
    shutil.copytree(base, tuned)
    save_file(module.state_dict(), tuned / _REWEIGHTING)
    count = sum(weight.numel() for weight in module.parameters())
    return Trained(folder=tuned, parameters=count, losses=(losses[0], losses[-1]))


def _reweighting(model: Any, special_ids: frozenset[int]) -> AttentionReweighting:
    """Attach fresh biases; the bias goes into the additive mask, which fused attention may do without."""
    model.set_attn_implementation("eager")
    module = AttentionReweighting(model, special_ids)
    model.add_module("reweighting", module)
    return module


def _saved(model: Any, source: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(model, source, folder)
    return folder
