"""The Trainer of a run: the loss of the answers, a balance method, other objectives, and a stop where something is not finite."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
)

from moir_edge.data.rows import Row
from moir_edge.precisions import BF16
from moir_edge.progress import Progress
from moir_edge.tuning.adapters import frozen_statistics
from moir_edge.tuning.balancing.method import BalanceMethod
from moir_edge.tuning.checkpointed_trainer import CheckpointedTrainer
from moir_edge.tuning.checkpoints import checkpoint_folder
from moir_edge.tuning.data import AnswerBatches, RowSet, TrainingRow
from moir_edge.tuning.divergence import DivergenceGuard
from moir_edge.tuning.loss import answer_loss
from moir_edge.tuning.objectives import ANSWERS, LossParts, Objective, Step
from moir_edge.tuning.settings import TuneSettings

__all__ = ["RouterTrainer", "build_trainer"]

_ROWS = "rows"


class RouterTrainer(CheckpointedTrainer):
    """The Trainer of a vision-language model of which a part is trained.

    Args:
        batches: Makes batches of rows.
        balance: Balances the branches in training steps, or None.
        objectives: Their losses are added to the answers' loss in training steps.
        guard: Stops a run that diverges.
        autocast_dtype: Of matrix products in the training steps, evaluations left out; None for the weights' own.
        **kwargs: Passed on to the Trainer.
    """

    def __init__(
        self,
        *,
        batches: AnswerBatches,
        balance: BalanceMethod | None,
        objectives: Sequence[Objective],
        guard: DivergenceGuard,
        autocast_dtype: torch.dtype | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            balance=balance,
            data_collator=_NamedBatches(batches),
            **kwargs,
        )
        self._batches = batches
        self._objectives = tuple(objectives)
        self._parts = LossParts()
        self._guard = guard
        self._autocast_dtype = autocast_dtype
        model: Any = self.model
        self._frozen = frozen_statistics(model)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the task loss; in training, with what the balance method and the objectives add to it.

        Raises:
            NotFiniteError: It is NaN or infinite.
        """
        del num_items_in_batch  # rows count the same, however many tokens their answers have
        inputs = dict(inputs)
        rows: Sequence[TrainingRow] = inputs.pop(_ROWS)
        for (
            module
        ) in self._frozen:  # the Trainer puts the whole model in training mode before each step
            module.eval()
        balance = self._balance if model.training else None
        with self._autocast(model):
            if balance is not None:
                balance.before_forward(inputs)
            outputs = model(**inputs, use_cache=False)
            loss = answer_loss(outputs.logits, inputs["labels"])
            if balance is not None:
                loss = balance.loss(loss, inputs, outputs.logits)
            if self._objectives and model.training:
                step = Step(
                    model=model, rows=rows, inputs=inputs, outputs=outputs, encode=self._encoded
                )
                loss = self._with_objectives(loss, step)
        if model.training and not loss.requires_grad:
            loss = loss + _nothing(model)
        self._check_loss(model, loss, [row.row.id for row in rows])
        return (loss, outputs) if return_outputs else loss

    def _with_objectives(self, loss: Tensor, step: Step) -> Tensor:
        """Return the sum of the answers' loss and the objectives' losses by their weights, and note its parts."""
        losses = {objective.name: objective.loss(step) for objective in self._objectives}
        self._parts.add({ANSWERS: loss, **losses})
        for objective in self._objectives:
            loss = loss + objective.weight * losses[objective.name]
        return loss

    def _encoded(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        encoded: dict[str, Tensor] = self._prepare_inputs(dict(self._batches(rows)))
        return encoded

    def _check_loss(self, model: nn.Module, loss: Tensor, rows: Sequence[str]) -> None:
        if not model.training:
            self._guard.check_evaluation(loss.detach(), rows, self.state.global_step)
            return
        scheduler: Any = self.lr_scheduler
        self._guard.begin(self.state.global_step + 1, rows, scheduler.get_last_lr()[0])
        self._guard.check_loss(loss.detach())

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Make the forward and backward pass of one step.

        Raises:
            NotFiniteError: The loss or a gradient is NaN or infinite.
        """
        loss = super().training_step(model, *args, **kwargs)
        if self._balance is not None:
            self._balance.after_backward()
        self._guard.check_gradients(model)
        return loss

    def _autocast(self, model: nn.Module) -> AbstractContextManager[Any]:
        # TrainingArguments(bf16=True) would wrap the model's forward for good, evaluations included
        if self._autocast_dtype is None or not model.training:
            return nullcontext()
        return torch.autocast(self.args.device.type, dtype=self._autocast_dtype)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a training step together with the parts of its loss, and with the balance method's figures."""
        if "loss" in logs:
            logs = logs | self._parts.take()
            if self._balance is not None:
                logs = logs | self._balance.record()
        super().log(logs, start_time)


def _nothing(model: nn.Module) -> Tensor:
    """Return a zero whose backward pass gives each trained weight a zero gradient.

    A batch in which no row has an image is not routed, so that a router's weights have no part in its loss.
    """
    zeros = [0.0 * weight.sum() for weight in model.parameters() if weight.requires_grad]
    return torch.stack(zeros).sum()


class _NamedBatches:
    """Adds its rows to a batch, so that a step that fails can name them, and objectives know their conditions."""

    def __init__(self, batches: AnswerBatches) -> None:
        self._batches = batches

    def __call__(self, rows: Sequence[TrainingRow]) -> dict[str, Any]:
        return {**self._batches([row.row for row in rows]), _ROWS: tuple(rows)}


class _Bookkeeping(TrainerCallback):
    """Checks the weights and draws the progress."""

    def __init__(self, progress: Progress, guard: DivergenceGuard) -> None:
        self._progress = progress
        self._guard = guard

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        if (
            state.best_global_step is not None
        ):  # not the path that the record of a resumed run names
            best = checkpoint_folder(Path(str(args.output_dir)), state.best_global_step)
            state.best_model_checkpoint = str(best)
        self._progress("tuning", state.global_step, state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        self._guard.check_weights(model)
        self._progress("tuning", state.global_step, state.max_steps)

    def on_train_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        if state.global_step < state.max_steps:  # stopped early: the stage ends here
            self._progress("tuning", state.global_step, state.global_step)


def build_trainer(
    model: Any,
    settings: TuneSettings,
    *,
    batches: AnswerBatches,
    train: RowSet,
    evaluation: RowSet | None,
    training: Path,
    balance: BalanceMethod | None = None,
    objectives: Sequence[Objective] = (),
    progress: Progress,
) -> RouterTrainer:
    """Return a trainer that writes its checkpoints to `training`.

    Args:
        model: A model whose parameters require a gradient where they are to be trained.
        settings: Of the run.
        batches: Makes batches of rows.
        train: Rows to learn.
        evaluation: Rows on which the loss is measured, or None.
        training: Folder for the training checkpoints.
        balance: On the model already, or None.
        objectives: With their hooks on the model already.
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
        # It would replace a loss that is not finite by the mean of those before it: 0 at the first.
        logging_nan_inf_filter=False,
        save_steps=every,
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
    guard = DivergenceGuard(settings.learning_rate)
    trainer = RouterTrainer(
        batches=batches,
        balance=balance,
        objectives=objectives,
        guard=guard,
        autocast_dtype=torch.bfloat16 if settings.dtype == BF16 else None,
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=evaluation,
        callbacks=[_Bookkeeping(progress, guard)],
    )
    trainer.remove_callback(PrinterCallback)
    if settings.early_stop is not None:
        trainer.add_callback(EarlyStoppingCallback(settings.early_stop))
    return trainer
