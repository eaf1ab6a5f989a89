"""Tune a retrofitted checkpoint on a data file and write the result as a checkpoint, resuming a killed run if asked."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moir_edge.arguments import check_run, given_path, instance
from moir_edge.data.formats import DataSource, as_source
from moir_edge.data.rows import Row
from moir_edge.environment import require
from moir_edge.errors import DataError, NotFiniteError
from moir_edge.finite import json_text
from moir_edge.locks import FileLock
from moir_edge.ownership import CHECKPOINT
from moir_edge.progress import Progress, silent, single_step
from moir_edge.staging import check_replaceable, staged_folder
from moir_edge.tuning.checkpoints import has_checkpoints
from moir_edge.tuning.settings import TuneSettings
from moir_edge.tuning.unfinished import (
    check_unfinished,
    claim,
    discard,
    run_identity,
    training_folder,
)

if TYPE_CHECKING:
    from moir_edge.tuning.adapters import Adapters
    from moir_edge.tuning.data import TrainingRow
    from moir_edge.tuning.objectives import Objective

__all__ = ["REPORT_NAME", "TuneReport", "tune"]

REPORT_NAME = "tuning.json"
IMAGES, PAIRS = "images", "pairs"


@dataclass(frozen=True, kw_only=True)
class TuneReport:
    """Result of a run; `tuning.json` in the new checkpoint holds the same.

    Attributes:
        settings: The settings of the run.
        source: Name and SHA-256 of the checkpoint that was tuned.
        data: Paths, hashes and format of the training rows, and how prompts were worded.
        rows: Training rows.
        conditions: How many of them are clean and of each degradation.
        steps: Optimiser steps made.
        trained_parameters: How many weights were trained; adapters count, though they are merged.
        parameters: How many there are in the checkpoint that was written.
        first_loss: Training loss at the first log entry; the branches' own losses, where the balance method adds them,
            and the objectives' are part of it.
        last_loss: The same at the last log entry.
        first_eval_loss: Task loss on the evaluation rows of the checkpoint as it was, or None.
        eval_loss: Task loss on the evaluation rows with the weights that were written, or None.
        seconds: Training time of this process; a resumed run counts from the resumption.
        objectives: Of every auxiliary objective, by name: `weight`, and its own loss before the weight at the first
            and the last log entry (`first`, `last`); empty without any.
        balance: The balance method's figures at the last log entry, each `FIGURE_image` or `FIGURE_text`; empty
            without one.
        log: The log entries in order: loss, learning rate, evaluations, with a balance method its figures, and with
            objectives the parts of the loss, `loss_answers` and a `loss_NAME` each.
    """

    settings: dict[str, Any]
    source: dict[str, str]
    data: dict[str, str | None]
    rows: int
    conditions: dict[str, int]
    steps: int
    trained_parameters: int
    parameters: int
    first_loss: float
    last_loss: float
    first_eval_loss: float | None
    eval_loss: float | None
    seconds: float
    objectives: dict[str, dict[str, float]]
    balance: dict[str, float]
    log: list[dict[str, float]]


def tune(
    checkpoint: str | Path,
    output: str | Path,
    data: str | Path | DataSource,
    *,
    eval_data: str | Path | DataSource | None = None,
    settings: TuneSettings | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> TuneReport:
    """Tune a checkpoint on the task loss of the answers: its router, adapters on its language model, or all of it.

    Args:
        checkpoint: Folder or hub id, written by `moir-edge retrofit` or an earlier `tune`; `lora` and `full` take one
            without router too.
        output: Folder of the new checkpoint; it appears whole at the end.
        data: JSON lines, or a source in another format, with an answer in every row.
        eval_data: Rows on which the loss is measured; needed for early stopping.
        settings: None for the defaults.
        resume: Go on from the last training checkpoint of a run that was killed.
        force: Replace a checkpoint at `output` and discard an unfinished run of it.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        DataError: Data without answers, a checkpoint without the router that is to be tuned or balanced, nothing to
            resume, or other settings than those of the run to resume.
        NotFiniteError: The loss, a gradient or a weight became NaN or infinite; nothing of the run is kept.
        EnvironmentProblem: A package is missing.
    """
    settings = instance("settings", settings, TuneSettings) or TuneSettings()
    given_path("checkpoint", checkpoint)
    given_path("output", output)
    check_run(progress, resume=resume, force=force)
    adapters = ["peft"] if settings.train == "lora" else []
    require("torch", "transformers", "accelerate", *adapters, extra="tune")
    progress = progress or silent
    if settings.early_stop is not None and eval_data is None:
        raise DataError("early stopping watches the evaluation loss; give `eval_data`")
    check_replaceable(output, CHECKPOINT, force=force)
    training = training_folder(output)
    check_unfinished(training, resume=resume, force=force)
    source = as_source(data)
    eval_source = None if eval_data is None else as_source(eval_data)
    rows = _rows(source)
    eval_rows = None if eval_source is None else _rows(eval_source)
    with single_step(progress, "loading"):
        loaded = _load(checkpoint, settings)
    origin = run_identity(settings, loaded.source.sha256, source, eval_source)
    lock = claim(training, origin, settings, resume=resume)
    from moir_edge.weights.whole import quiet_transformers

    with quiet_transformers(), _discarded_if_useless(training, lock):
        from moir_edge.tuning.degrading import degraded_share

        training_rows = degraded_share(
            rows, settings.degrade, settings.degrade_share, training / IMAGES,
            seed=settings.seed, missing=settings.missing,
        )  # fmt: skip
        with _config_kept(loaded.model), _plain_attention_on_cpu(loaded.model):
            report = _train(
                loaded, settings, source, training_rows, eval_rows, training=training, progress=progress
            )  # fmt: skip
        _write(loaded, output, report, force=force)
        discard(training, lock)
    return report


@contextmanager
def _discarded_if_useless(training: Path, lock: FileLock) -> Iterator[None]:
    """Discard a run that failed before its first checkpoint, or diverged: resumed, it would do so again."""
    try:
        yield
    except Exception as error:
        if isinstance(error, NotFiniteError) or not has_checkpoints(training):
            discard(training, lock)
        raise
    finally:
        lock.release()


def _write(loaded: Any, output: str | Path, report: TuneReport, *, force: bool) -> None:
    from moir_edge.checkpoint import write_checkpoint

    with staged_folder(output, CHECKPOINT, force=force) as folder:
        write_checkpoint(loaded.model, loaded.folder, folder)
        (folder / REPORT_NAME).write_text(json_text(asdict(report), indent=1) + "\n")


def _plain_attention_on_cpu(model: Any) -> AbstractContextManager[None]:
    """Train with attention as plain matrix products on a machine without a GPU.

    torch's fused attention has a slow backward pass on the CPU: a step of the demo takes twice as long with it.
    """
    import torch

    from moir_edge.export.attention import attention_implementation

    return nullcontext() if torch.cuda.is_available() else attention_implementation(model, "eager")


@contextmanager
def _config_kept(model: Any) -> Iterator[None]:
    """Undo, before the checkpoint is written, that the Trainer turns the KV cache off in the config."""
    before = dict(vars(model.config))
    try:
        yield
    finally:
        vars(model.config).clear()
        vars(model.config).update(before)


def _rows(source: DataSource) -> list[Row]:
    from moir_edge.tuning.data import answered_rows

    return answered_rows(source.read(), str(source.path))


def _load(checkpoint: str | Path, settings: TuneSettings) -> Any:
    from moir_edge.checkpoint import load_checkpoint, require_chat_template

    loaded = load_checkpoint(checkpoint, exported=False)
    require_chat_template(loaded.processor, checkpoint)
    if loaded.router is None and (
        settings.train == "router" or settings.balance_method is not None
    ):
        purpose = "to tune" if settings.train == "router" else "behind which it could be balanced"
        raise DataError(
            f"{checkpoint} has no router {purpose}; attach one first with "
            f"`moir-edge retrofit {checkpoint} -o ROUTED`"
        )
    return loaded


def _train(
    loaded: Any,
    settings: TuneSettings,
    source: DataSource,
    rows: list[TrainingRow],
    eval_rows: list[Row] | None,
    *,
    training: Path,
    progress: Progress,
) -> TuneReport:
    """Train in place, and leave the model on the CPU in evaluation mode."""
    from moir_edge.tuning.adapters import Adapters, train_only
    from moir_edge.tuning.balancing.build import balance_method
    from moir_edge.tuning.data import RowSet, as_they_are
    from moir_edge.tuning.divergence import require_finite_weights
    from moir_edge.tuning.objectives import attached
    from moir_edge.tuning.trainer import build_trainer

    model = loaded.model
    batches = _checked_batches(loaded, (*(row.row for row in rows), *(eval_rows or ())))
    adapters = Adapters(model, settings.rank, settings.seed) if settings.train == "lora" else None
    trained = train_only(model, settings.train)
    balance = balance_method(settings.balance_method, model)
    objectives = _objectives(settings, model, adapters, training / PAIRS)
    trainer = build_trainer(
        model, settings, batches=batches, train=RowSet(rows),
        evaluation=None if eval_rows is None else RowSet(as_they_are(eval_rows)),
        training=training, balance=balance, objectives=objectives, progress=progress,
    )  # fmt: skip
    newest = trainer.newest_whole()
    first_eval_loss = _evaluated(trainer)
    start = time.monotonic()
    with attached(objectives, model):
        trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    seconds = time.monotonic() - start
    if adapters is not None:
        adapters.merge()
    eval_loss = _evaluated(trainer)
    if balance is not None:
        balance.detach()
    model.cpu().eval()
    require_finite_weights(model)
    log = trainer.state.log_history
    losses = [entry["loss"] for entry in log if "loss" in entry]
    return TuneReport(
        settings=settings.record(),
        source={"name": loaded.source.name, "sha256": loaded.source.sha256},
        data=source.record(),
        rows=len(rows),
        conditions=dict(Counter(row.condition for row in rows)),
        steps=trainer.state.global_step,
        trained_parameters=trained,
        parameters=sum(weight.numel() for weight in model.parameters()),
        first_loss=losses[0],
        last_loss=losses[-1],
        first_eval_loss=first_eval_loss,
        eval_loss=eval_loss,
        seconds=round(seconds, 1),
        objectives={one.name: _course(one, log) for one in objectives},
        balance={} if balance is None else balance.record(),
        log=log,
    )


def _objectives(
    settings: TuneSettings, model: Any, adapters: Adapters | None, pairs: Path
) -> list[Objective]:
    """Return what is added to the answers' loss; degraded pictures that an objective needs go to the folder `pairs`."""
    from moir_edge.tuning.balancing.build import balance_objectives
    from moir_edge.tuning.keep_clean import KeepClean
    from moir_edge.tuning.rank_density import RankDensity

    objectives = balance_objectives(settings.balance_method)
    if settings.keep_clean is not None:
        objectives.append(KeepClean(settings.keep_clean, adapters))
    if settings.rank_density is not None:
        objectives.append(
            RankDensity(settings.rank_density, model, settings.degrade, pairs, seed=settings.seed)
        )
    return objectives


def _course(objective: Objective, log: list[dict[str, float]]) -> dict[str, float]:
    """Return the weight of an objective, and its own loss at the first and the last log entry."""
    from moir_edge.tuning.objectives import PREFIX

    key = f"{PREFIX}{objective.name}"
    losses = [entry[key] for entry in log if key in entry]
    return {"weight": objective.weight, "first": losses[0], "last": losses[-1]}


def _checked_batches(loaded: Any, rows: Sequence[Row]) -> Any:
    """Return what makes batches; a chat template that does not fit a row is refused before any step is made."""
    from moir_edge.tuning.data import AnswerBatches

    batches = AnswerBatches(loaded.processor, frozenset(loaded.end_ids), loaded.prompt_bound)
    for row in rows:
        batches.answer_ids(row)
    return batches


def _evaluated(trainer: Any) -> float | None:
    """Return the task loss on the evaluation rows, or None where there are none."""
    if trainer.eval_dataset is None:
        return None
    return float(trainer.evaluate()["eval_loss"])
