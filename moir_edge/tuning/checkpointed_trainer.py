"""transformers' Trainer with training checkpoints that hold the trained weights only, and that are whole or passed over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer

from moir_edge.errors import DataError, MoirEdgeError, one_line
from moir_edge.finite import json_text
from moir_edge.tuning.balancing.method import BalanceMethod
from moir_edge.tuning.checkpoint_writing import HashingFile, written_checkpoint
from moir_edge.tuning.checkpoints import (
    CheckpointFlaw,
    FileHash,
    checkpoint_folder,
    newest_whole,
    read_part,
    remove_old,
    require_whole,
)
from moir_edge.tuning.trainer_state import best_step, check_state, kinds

__all__ = ["CheckpointedTrainer"]

_WEIGHTS = "model.safetensors"
_BALANCE = "balance.json"


class CheckpointedTrainer(Trainer):
    """A Trainer whose output folder is the training folder of a run.

    What torch unpickles was hashed when it was written, and is read with `weights_only`: tensors and plain values alone.

    Args:
        balance: The balance method, whose state is a part of each checkpoint; None without one.
        **kwargs: Passed on to the Trainer.
    """

    def __init__(self, *, balance: BalanceMethod | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._balance = balance
        self._hashes: dict[str, FileHash] = {}

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

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        training, step = Path(str(self.args.output_dir)), self.state.global_step
        with written_checkpoint(training, step) as self._hashes:
            super()._save_checkpoint(model, trial)
            if self._balance is not None:
                record = json_text(self._balance.state())
                (checkpoint_folder(training, step) / _BALANCE).write_text(record)
        remove_old(training, best_step)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        # Most bytes of a checkpoint are the optimizer's: they are hashed on their way.
        parts: dict[str, Any] = {
            "optimizer.pt": self.optimizer,
            "scheduler.pt": self.lr_scheduler,
        }
        for name, part in parts.items():
            with (Path(output_dir) / name).open("wb") as stream:
                hashing = HashingFile(stream)
                sink: Any = hashing
                torch.save(part.state_dict(), sink)
            self._hashes[name] = hashing.hash()

    def newest_whole(self) -> Path | None:
        """Return the newest whole checkpoint of the run, and set the balance method to its state; None if the run had made none.

        Raises:
            DataError: All checkpoints are damaged.
        """
        newest = newest_whole(Path(str(self.args.output_dir)), self._check)
        if newest is not None and self._balance is not None:
            self._balance.load_state(read_part(newest, _BALANCE))
        return newest

    def _check(self, folder: Path) -> None:
        """Raise `CheckpointFlaw` for a checkpoint that this run cannot go on from."""
        check_state(folder, [*self.callback_handler.callbacks, self.control])
        if self._balance is not None:
            try:
                self._balance.check_state(read_part(folder, _BALANCE))
            except DataError as error:
                raise CheckpointFlaw(f"{folder / _BALANCE}: {error}") from error
        best = best_step(folder)
        if self.args.load_best_model_at_end and best is not None:
            best_folder = checkpoint_folder(folder.parent, best)
            if best_folder != folder:
                require_whole(best_folder)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        with _loading(resume_from_checkpoint):
            stored = load_file(Path(resume_from_checkpoint) / _WEIGHTS)
            trained = {
                name: parameter
                for name, parameter in self._module().named_parameters()
                if parameter.requires_grad
            }
            if _shapes(stored) != _shapes(trained):
                raise ValueError(f"the tensors in {_WEIGHTS} are not those that are trained")
            with torch.no_grad():
                for name, parameter in trained.items():
                    parameter.copy_(stored[name])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        optimizer: Any = self.optimizer
        before = self._settings_kinds()
        with _loading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
            if self._settings_kinds() != before:
                raise ValueError(
                    "settings of the optimizer or the scheduler are not those of this run"
                )
            for parameter, state in optimizer.state.items():
                _require_shape(parameter, state)

    def _settings_kinds(self) -> Any:
        """Return the kinds of all that optimizer and scheduler store beside the optimizer's moments."""
        optimizer: Any = self.optimizer
        scheduler: Any = self.lr_scheduler
        return kinds([optimizer.state_dict()["param_groups"], scheduler.state_dict()])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _loading(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _module(self) -> nn.Module:
        module: Any = self.model
        return module  # type: ignore[no-any-return]


@contextmanager
def _loading(checkpoint: str | None) -> Iterator[None]:
    """Turn what torch and safetensors raise on other content than they wrote into one line."""
    try:
        yield
    except MoirEdgeError:
        raise
    except Exception as error:
        raise DataError(
            f"the training checkpoint {checkpoint} cannot be loaded ({one_line(error)}); remove it to go on from an "
            "older one, or discard the run with `force=True`"
        ) from error


def _require_shape(parameter: Tensor, state: Mapping[str, Any]) -> None:
    """Raise `ValueError` where the optimizer's moments are not those of a weight; it would find out at the first step."""
    for name, value in state.items():
        fits = isinstance(value, Tensor) and value.shape in (torch.Size(), parameter.shape)
        if not fits or not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"{name} of the optimizer does not fit a weight of shape {tuple(parameter.shape)}"
            )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Any, ...]]:
    return {name: (tensor.dtype, *tensor.shape) for name, tensor in tensors.items()}
