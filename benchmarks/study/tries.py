"""Settings that were tried on validation rows: an arm with changes, and a record of every try that the repository keeps."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from benchmarks.common import markdown_table
from benchmarks.study.arms import Arm
from benchmarks.study.comparisons import difference, mean_score
from benchmarks.study.runs import Run
from benchmarks.study.settings import StudySettings
from moir_edge.errors import DataError, closest
from moir_edge.finite import json_text
from moir_edge.whole_files import write_whole

__all__ = ["TRIES", "Try", "changed", "new_try", "note_tries", "read_tries", "tries_table"]

TRIES = Path(__file__).with_name("tries.jsonl")
"""The record that the repository keeps."""

_SETTINGS = ("steps", "batch_size", "learning_rate", "lora_rank", "degrade_share")
_ROUTER = "router."
_FIXED = ("name", "title", "router", "data")
_ARM, _STUDY = TypeAdapter(Arm), TypeAdapter(StudySettings)


@dataclass(frozen=True, kw_only=True)
class Try:
    """One setting on validation rows; scores in %, gains in points over the base.

    Attributes:
        backbone: Name of the backbone.
        arm: Name of the arm.
        changes: What was changed in it, as ``KEY=VALUE``.
        seed: The seed.
        steps: Optimiser steps.
        parameters: Trained weights.
        clean: Score on clean rows.
        degraded: Mean of the scores under blur and word dropout.
        clean_gain: Against the base.
        degraded_gain: Against the base.
        note: Why it was tried, or what it showed.
    """

    backbone: str
    arm: str
    changes: tuple[str, ...]
    seed: int
    steps: int
    parameters: int
    clean: float
    degraded: float
    clean_gain: float
    degraded_gain: float
    note: str = ""


_TRY = TypeAdapter(Try)


def changed(arm: Arm, settings: StudySettings, changes: Sequence[str]) -> tuple[Arm, StudySettings]:
    """Return an arm and settings with changes such as ``router.rank=8``, ``keep_clean=2`` or ``steps=200``.

    Args:
        arm: The arm; the name of the changed one says what was changed.
        settings: The study's settings.
        changes: ``KEY=VALUE``: a field of the router's config after ``router.``, of the arm, or of the settings.

    Raises:
        DataError: A key is unknown, or a value does not fit.
    """
    of_router: dict[str, Any] = {}
    of_arm: dict[str, Any] = {}
    of_study: dict[str, Any] = {}
    fields = {field.name for field in dataclasses.fields(Arm)} - set(_FIXED)
    for change in changes:
        key, found, value = change.partition("=")
        if not found:
            raise DataError(f"{change!r}: expected KEY=VALUE, such as router.rank=8")
        if key.startswith(_ROUTER) and arm.router is not None:
            of_router[key.removeprefix(_ROUTER)] = _value(value)
        elif key in _SETTINGS and (key != "learning_rate" or arm.learning_rate is None):
            of_study[key] = _value(value)
        elif key in fields:
            of_arm[key] = _value(value)
        else:
            raise DataError(f"{key!r} cannot be changed: {closest(key, (*_SETTINGS, *fields))}")
    try:
        router = arm.router
        if router is not None and of_router:
            router = type(router).model_validate({**router.model_dump(), **of_router})
        name = re.sub(r"[^\w.=+-]", "-", "+".join((arm.name, *changes)))
        new = _ARM.validate_python({**vars(arm), **of_arm, "router": router, "name": name})
        return new, _STUDY.validate_python({**vars(settings), **of_study})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the router"
        raise DataError(f"{where}: {first['msg']}") from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def new_try(
    run: Run, base: Run, *, backbone: str, arm: Arm, changes: Sequence[str], settings: StudySettings,
    note: str,
) -> Try:  # fmt: skip
    """Sum up one validation run against the base's."""
    degraded = (settings.blur, settings.dropout)
    return Try(
        backbone=backbone,
        arm=arm.name,
        changes=tuple(changes),
        seed=run.seed,
        steps=settings.steps,
        parameters=run.parameters,
        clean=round(mean_score([run], ("clean",)).value, 2),
        degraded=round(mean_score([run], degraded).value, 2),
        clean_gain=round(difference([run], [base], ("clean",)).value, 2),
        degraded_gain=round(difference([run], [base], degraded).value, 2),
        note=note,
    )


def read_tries(file: Path) -> list[Try]:
    """Read the record; a file that is not there holds none.

    Raises:
        DataError: A line is damaged.
    """
    found = []
    for number, line in enumerate(file.read_text().splitlines() if file.is_file() else (), 1):
        try:
            found.append(_TRY.validate_python(json.loads(line)))
        except (ValueError, ValidationError) as error:
            raise DataError(f"{file}:{number}: not a record of a try; restore the file") from error
    return found


def note_tries(file: Path, tries: Sequence[Try]) -> None:
    """Add tries to the record; one that was made again takes the place of its earlier line."""
    kept = {_key(one): one for one in (*read_tries(file), *tries)}
    write_whole(file, "".join(f"{json_text(asdict(one), indent=None)}\n" for one in kept.values()))


def _key(one: Try) -> tuple[object, ...]:
    return (one.backbone, one.arm, one.changes, one.seed, one.steps)


def tries_table(tries: Sequence[Try], titles: Mapping[str, str]) -> str:
    """Return all tries as a table, the largest gain on degraded rows first.

    Args:
        tries: From `read_tries`.
        titles: Name of a backbone to what tables call it.
    """
    order = sorted(tries, key=lambda one: (one.backbone, -one.degraded_gain))
    head = ("backbone", "arm", "changed", "seed", "steps", "weights", "Δ degraded", "Δ clean", "")
    rows = [
        (
            titles.get(one.backbone, one.backbone),
            one.arm,
            ", ".join(one.changes),
            str(one.seed),
            str(one.steps),
            f"{one.parameters:,}",
            f"{one.degraded_gain:+.1f}",
            f"{one.clean_gain:+.1f}",
            one.note,
        )
        for one in order
    ]
    return markdown_table(head, rows, right=range(3, 8))
