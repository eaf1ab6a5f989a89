"""Machines that were written down: contents of files, outputs of tools, and what Python saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moir_edge.device.system import RecordedSystem
from moir_edge.doctor.installed import Installed

FOLDER = Path(__file__).parent / "recordings"
MACHINES = tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def recording(name: str) -> dict[str, Any]:
    found = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def system(name: str, **files: str) -> RecordedSystem:
    """Return a recorded machine.

    Args:
        name: The file's stem.
        files: Contents in place of those recorded, with ``__`` for ``/`` in the path.
    """
    record = recording(name)
    changed = {key.replace("__", "/"): text for key, text in files.items()}
    return RecordedSystem({**record["files"], **changed}, record["commands"])


def installed(name: str, **changes: Any) -> Installed:
    record = {**recording(name)["installed"], **changes}
    for key in ("providers", "notes"):
        record[key] = tuple(record.get(key, ()))
    return Installed(**record)
