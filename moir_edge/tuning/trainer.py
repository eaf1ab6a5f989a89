"""transformers' Trainer, with checkpoints that hold the trained weights only, and MWAM."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from moir_edge.ownership import remove_files
from moir_edge.tuning.data import AnswerBatches, RowSet
from moir_edge.tuning.loss import answer_loss
from moir_edge.tuning.mwam import Mwam
from moir_edge.tuning.settings import TuneSettings
from moir_edge.tuning.unfinished import is_training_file

__all__ = ["Progress", "RouterTrainer", "build_trainer", "last_complete"]

Progress = Callable[[str, int, int], None]

_WEIGHTS = "model.safetensors"
_COMPLETE = "complete.json"


class RouterTrainer(Trainer):
    """The Trainer of a vision-language model of which a part is trained.

    Args:
        mwam: Balances the branches, or None.
        autocast_dtype: Of matrix products in the training steps, evaluations left out; None for the weights' own.
        **kwargs: Passed on to the Trainer.
    """

    def __init__(
        self, *, mwam: Mwam | None, autocast_dtype: torch.dtype | None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.mwam = mwam
        self._autocast_dtype = autocast_dtype

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the task loss, with the branches' own losses where MWAM asks for them."""
        del num_items_in_batch  # rows count the same, however many tokens their answers have
        with self._autocast(model):
            outputs = model(**inputs, use_cache=False)
            loss = answer_loss(outputs.logits, inputs["labels"])
            if self.mwam is not None and self.mwam.mode != "gradient" and model.training:
                loss = loss + self.mwam.auxiliary_loss(inputs)
        return (loss, outputs) if return_outputs else loss

    def _autocast(self, model: nn.Module) -> AbstractContextManager[Any]:
        # TrainingArguments(bf16=True) would wrap the model's forward for good, evaluations included
        if self._autocast_dtype is None or not model.training:
            return nullcontext()
        return torch.autocast(self.args.device.type, dtype=self._autocast_dtype)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a training step together with FRM and K of every branch."""
        if self.mwam is not None and "loss" in logs:
            logs = logs | self.mwam.record()
        super().log(logs, start_time)

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        trained = {
            name: parameter.detach().cpu().contiguous()
            for name, parameter in self._module().named_parameters()
            if parameter.requires_grad
        }
        save_file(trained, folder / _WEIGHTS)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        stored = load_file(Path(resume_from_checkpoint) / _WEIGHTS)
        with torch.no_grad():
            for name, parameter in self._module().named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(stored[name])

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _module(self) -> nn.Module:
        module: Any = self.model
        return module  # type: ignore[no-any-return]


class _Bookkeeping(TrainerCallback):
    """Draws the progress, and marks a checkpoint as complete once all of its files are written."""

    def __init__(self, progress: Progress | None, mwam: Mwam | None) -> None:
        self._progress = progress
        self._mwam = mwam

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        if self._progress is not None:
            self._progress("tuning", state.global_step, state.max_steps)

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        draft = folder / f"{_COMPLETE}.draft"
        draft.write_text(json.dumps(self._mwam.balance.state() if self._mwam else {}))
        draft.rename(folder / _COMPLETE)


def last_complete(training: Path, mwam: Mwam | None) -> Path | None:
    """Return the newest complete checkpoint of a run, and set MWAM to its state; None if the run had made none.

    Checkpoints that a kill left incomplete are removed.
    """
    complete = []
    for folder in training.glob("checkpoint-*"):
        if (folder / _COMPLETE).is_file():
            complete.append(folder)
        else:
            remove_files(folder, is_training_file)
    if not complete:
        return None
    newest = max(complete, key=lambda folder: int(folder.name.rpartition("-")[2]))
    if mwam is not None:
        mwam.balance.load_state(json.loads((newest / _COMPLETE).read_text()))
    return newest


def build_trainer(
    model: Any,
    settings: TuneSettings,
    *,
    batches: AnswerBatches,
    train: RowSet,
    evaluation: RowSet | None,
    training: Path,
    mwam: Mwam | None,
    progress: Progress | None,
) -> RouterTrainer:
    """Return a trainer that writes its checkpoints to `training`.

    Args:
        model: A model whose parameters require a gradient where they are to be trained.
        settings: Of the run.
        batches: Makes batches of rows.
        train: Rows to learn.
        evaluation: Rows on which the loss is measured, or None.
        training: Folder for the training checkpoints.
        mwam: Attached to the model already, or None.
        progress: Called as ``progress(stage, done, total)``.
    """
    steps = settings.total_steps(len(train))
    every = min(settings.checkpoint_every, steps)
    arguments = TrainingArguments(
        output_dir=str(training),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        warmup_steps=0.05,
        lr_scheduler_type="linear",
        weight_decay=0.01,
        seed=settings.seed,
        logging_steps=max(1, min(10, steps // 10)),
        save_steps=every,
        save_total_limit=2,
        eval_strategy="no" if evaluation is None else "steps",
        eval_steps=every,
        load_best_model_at_end=settings.early_stop is not None,
        metric_for_best_model="loss",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,
        remove_unused_columns=False,
        label_names=["labels"],
        prediction_loss_only=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
    )
    trainer = RouterTrainer(
        mwam=mwam,
        autocast_dtype=torch.bfloat16 if settings.dtype == "bf16" else None,
        model=model,
        args=arguments,
        data_collator=batches,
        train_dataset=train,
        eval_dataset=evaluation,
        callbacks=[_Bookkeeping(progress, mwam)],
    )
    trainer.remove_callback(PrinterCallback)
    if settings.early_stop is not None:
        trainer.add_callback(EarlyStoppingCallback(settings.early_stop))
    return trainer
