"""Make one run's model: attach what the arm has, tune it with the study's budget."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.study.arms import Arm
from benchmarks.study.control_training import train_control
from benchmarks.study.settings import StudySettings
from moir_edge.checkpoint import load_checkpoint, write_checkpoint
from moir_edge.progress import Progress
from moir_edge.router import remove_router, retrofit
from moir_edge.tuning import TuneSettings, tune

__all__ = ["Trained", "base_checkpoint", "train_arm"]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model ready to be measured: its folder, how many weights were trained, first and last training loss."""

    folder: Path
    parameters: int = 0
    losses: tuple[float, float] | None = None


def base_checkpoint(source: Path, folder: Path) -> Path:
    """Write a checkpoint without its router, if it has one."""
    model: Any = load_checkpoint(source, exported=False).model
    if hasattr(model, "moir_router"):
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
    if arm.control is not None:
        count, losses = train_control(
            arm, tuning, base=base, data=data, folder=folder, progress=progress
        )
        return Trained(folder=folder / "tuned", parameters=count, losses=losses)
    start = base if arm.router is None else _retrofitted(arm, seed, base, folder / "fresh")
    report = tune(start, folder / "tuned", data, settings=tuning, progress=progress)
    return Trained(
        folder=folder / "tuned",
        parameters=report.trained_parameters,
        losses=(report.first_loss, report.last_loss),
    )


def _tuning(arm: Arm, seed: int, settings: StudySettings) -> TuneSettings | None:
    if arm.train is None:
        return None
    return TuneSettings(
        train=arm.train,
        lora_rank=settings.lora_rank if arm.train == "lora" else None,
        balance_method=arm.balance,
        keep_clean=arm.keep_clean,
        missing_image=arm.missing,
        missing_context=arm.missing,
        rank_density=arm.rank_density,
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


def _saved(model: Any, source: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(model, source, folder)
    return folder
