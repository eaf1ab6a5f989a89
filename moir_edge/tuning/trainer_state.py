"""The Trainer's own record in a training checkpoint: checked before the Trainer makes objects and paths of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from transformers import TrainerState
from transformers.trainer_callback import ExportableState

from moir_edge.tuning.checkpoints import CheckpointFlaw, read_part

__all__ = ["STATE_NAME", "best_step", "check_state", "kinds"]

STATE_NAME = "trainer_state.json"

_CALLBACKS = "stateful_callbacks"


def check_state(folder: Path, callbacks: Iterable[Any]) -> None:
    """Refuse a record of other types than the Trainer writes.

    Args:
        folder: A training checkpoint.
        callbacks: Those of the Trainer; the record may set what they export, and nothing else.

    Raises:
        CheckpointFlaw: Names the key.
    """
    record, path = read_part(folder, STATE_NAME), folder / STATE_NAME
    stored = record.pop(_CALLBACKS, {})
    try:
        _record_type().model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointFlaw(f"{path}: {where}: {first['msg']}") from error
    if f"checkpoint-{record.get('global_step')}" != folder.name:
        raise CheckpointFlaw(f"{path}: global_step is not that of the folder's name")
    _check_best(path, record)
    _check_callbacks(path, stored, callbacks)


def best_step(folder: Path) -> int | None:
    """Return the step of the best weights as a checkpoint knows it, or None.

    Raises:
        CheckpointFlaw: The record is damaged.
    """
    step = read_part(folder, STATE_NAME).get("best_global_step")
    return step if type(step) is int else None


def _check_best(path: Path, record: Mapping[str, Any]) -> None:
    best = record.get("best_global_step")
    if best is not None and not 0 < best <= record["global_step"]:
        raise CheckpointFlaw(f"{path}: best_global_step is not a step of the run so far")


def _check_callbacks(path: Path, stored: Any, callbacks: Iterable[Any]) -> None:
    exported = {
        type(callback).__name__: callback.state()
        for callback in callbacks
        if isinstance(callback, ExportableState)
    }
    if kinds(stored) != kinds(exported):
        raise CheckpointFlaw(f"{path}: {_CALLBACKS} is not what this run's callbacks export")


def kinds(value: Any) -> Any:
    """Return a value with the kind of each leaf in its place; finite numbers are one kind."""
    if isinstance(value, Mapping):
        return {key: kinds(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [kinds(item) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return type(value).__name__
    return "number" if math.isfinite(value) else "not finite"


@cache
def _record_type() -> type[BaseModel]:
    """Return a model of the fields of `TrainerState`, which are what their annotations say or nulls where those allow it."""
    hints = get_type_hints(TrainerState)
    fields: dict[str, Any] = {
        field.name: (hints[field.name], None)
        for field in dataclasses.fields(TrainerState)
        if field.name != _CALLBACKS
    }
    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return create_model("TrainerRecord", __config__=config, **fields)
