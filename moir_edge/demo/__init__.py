"""Demo data made from real handwritten digits, and the small VLM trained on it that ships with the package."""

from __future__ import annotations

from pathlib import Path

from moir_edge.demo.data import TASKS, DemoRow, demo_rows, write_jsonl
from moir_edge.errors import EnvironmentProblem

__all__ = ["TASKS", "DemoRow", "checkpoint_path", "demo_rows", "write_jsonl"]


def checkpoint_path() -> Path:
    """Return the folder of the checkpoint that ships inside the package.

    Raises:
        EnvironmentProblem: The installation lacks it.
    """
    folder = Path(__file__).resolve().parent / "checkpoint"
    if not (folder / "config.json").is_file():
        raise EnvironmentProblem(
            f"the demo checkpoint is missing at {folder}: reinstall moir-edge, "
            "or make it again with python -m benchmarks.demo_training.train --output FOLDER"
        )
    return folder
