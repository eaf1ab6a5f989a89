"""`python -m tests.faults.mutants NAME`: cuts the power of a writer that leaves one synchronization out."""

from __future__ import annotations

import inspect
import json
import sys
import tempfile
from pathlib import Path

from moir_edge import replacing, staging
from tests.faults.sweep import Sweep

_LEFT_OUT = {
    "no-folder": "put_in_place",
    "no-lock": "staged_folder",
    "no-last": "clear",
    "no-order": "_retire",
}
"""Mutant -> function whose calls of `sync` do nothing."""


def main(mutant: str) -> None:
    sync = replacing.sync

    def some(path: Path) -> None:
        if inspect.stack()[1].function != _LEFT_OUT[mutant]:
            sync(path)

    if mutant == "no-content":
        staging.sync_tree = lambda folder: None
    else:
        replacing.sync = staging.sync = some
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        for trial in Sweep("folder", Path(folder)).trials("cut", None, 0):
            print(json.dumps(trial.record()), flush=True)  # noqa: T201
            if trial.fault:
                return


if __name__ == "__main__":
    main(sys.argv[1])
