"""When the test rows were read, and with what arms and settings: settings chosen after a look at them are not tested."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from benchmarks.study.arms import Arm
from benchmarks.study.settings import StudySettings
from moir_edge.errors import DataError
from moir_edge.finite import json_text
from moir_edge.whole_files import write_whole

__all__ = ["READINGS", "Reading", "note_reading", "plan_of", "read_readings"]

READINGS = Path(__file__).with_name("readings.jsonl")
"""The record that the repository keeps."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One plan with which the test rows of a backbone were read; its runs may take several sessions.

    Attributes:
        backbone: Its name.
        plan: From `plan_of`.
        day: When it began, as YYYY-MM-DD.
    """

    backbone: str
    plan: str
    day: str


_READING = TypeAdapter(Reading)


def plan_of(settings: StudySettings, arms: Sequence[Arm]) -> str:
    """Return a digest of everything that decides the runs: settings and all arms."""
    described = [
        {**vars(arm), "router": None if arm.router is None else arm.router.model_dump(mode="json")}
        for arm in arms
    ]
    text = json_text({"settings": settings.record(), "arms": described}, indent=None)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_readings(file: Path) -> list[Reading]:
    """Read the record; a file that is not there holds none.

    Raises:
        DataError: A line is damaged.
    """
    found = []
    for number, line in enumerate(file.read_text().splitlines() if file.is_file() else (), 1):
        try:
            found.append(_READING.validate_python(json.loads(line)))
        except (ValueError, ValidationError) as error:
            raise DataError(
                f"{file}:{number}: not a reading of the test rows; restore the file"
            ) from error
    return found


def note_reading(file: Path, backbone: str, plan: str, *, again: bool) -> None:
    """Record that test rows are about to be read; to go on with a plan is the same reading.

    Raises:
        DataError: They were read with another plan, and nobody said `again`.
    """
    earlier = [one for one in read_readings(file) if one.backbone == backbone]
    if any(one.plan == plan for one in earlier):
        return
    if earlier and not again:
        raise DataError(
            f"the test rows of {backbone} were read on {earlier[-1].day} with other arms or settings; choose settings "
            "with --validate, or read the test rows once more with --again, which the page then states"
        )
    entry = Reading(backbone=backbone, plan=plan, day=date.today().isoformat())
    before = file.read_text() if file.is_file() else ""
    write_whole(file, f"{before}{json_text(asdict(entry), indent=None)}\n")
