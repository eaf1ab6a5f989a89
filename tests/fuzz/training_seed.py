"""Makes the folder of an interrupted run; run as a program: `training_seed.py TARGET`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["SETTINGS", "checkpoint_settings", "main"]

SETTINGS: dict[str, Any] = {
    "steps": 4,
    "batch_size": 2,
    "checkpoint_every": 1,
    "balance_method": "mwam-loss",
    "early_stop": 4,
}


def checkpoint_settings() -> Any:
    """Return the settings of the run."""
    from moir_edge.tuning import TuneSettings

    return TuneSettings(**SETTINGS)


def main(target: Path) -> None:
    """Tune the demo's checkpoint until its third step, and keep the training folder."""
    from moir_edge.demo import checkpoint_path, demo_rows, write_jsonl
    from moir_edge.tuning import training_folder, tune

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "tuning" and done == 3:
            raise KeyboardInterrupt

    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        data = write_jsonl(demo_rows("train", count=4), Path(temporary))
        output = Path(temporary) / "tuned"
        try:
            tune(
                checkpoint_path(), output, data,
                eval_data=data, settings=checkpoint_settings(), progress=progress,
            )  # fmt: skip
        except KeyboardInterrupt:
            training_folder(output).rename(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
