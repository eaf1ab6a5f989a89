"""Train the study's second backbone from nothing: a LLaVA on scenes of icons (about half an hour on two cores).

A training that was stopped goes on where it was: give the same folder again.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.common import Result, new_parser, run, write_json
from benchmarks.demo_training.build import save_folder
from benchmarks.demo_training.sequences import Wording
from benchmarks.demo_training.train import Plan, Recipe, train_backbone
from benchmarks.icons.build import IMAGE_TEXT, build_llava, build_llava_processor
from benchmarks.icons.theme import ICONS
from moir_edge.json_files import read_object
from moir_edge.progress import Progress

__all__ = ["ICON_PLAN", "RECIPE", "main", "train_icons"]

RECIPE = Recipe(
    wording=Wording(theme=ICONS, image=IMAGE_TEXT),
    build_model=build_llava,
    build_processor=build_llava_processor,
)
ICON_PLAN = Plan(
    vision_steps=1600, vision_batch=48, language_steps=0, joint_steps=2200, singles=10, pairs=8, val_rows=150,
)  # fmt: skip
"""Smaller batches than the demo's, and no stage with a frozen tower: a step takes half of the demo's time."""
MORE_PLAN = replace(ICON_PLAN, seed=1, vision_steps=0, joint_steps=1600)
"""A second round on language, on other rows: the first one ends while statements are still being learned."""

_LOG_FILE = "training_log.json"


def train_icons(
    folder: Path,
    plan: Plan = ICON_PLAN,
    *,
    start_from: Path | None = None,
    device: str = "cpu",
) -> Path:
    """Train and write the checkpoint; does nothing where the folder holds a finished one.

    Args:
        folder: Checkpoint folder; beside it, `NAME.snapshot.pt` keeps an unfinished training.
        plan: Steps and rates.
        start_from: Finished checkpoint to go on with; its log goes into the new one's.
        device: Where to train.

    Returns:
        The folder.
    """
    if (folder / _LOG_FILE).is_file():
        return folder
    start, log = time.monotonic(), []  # type: tuple[float, list[dict[str, float]]]
    snapshots = folder.with_name(f"{folder.name}.snapshot.pt")
    folder.parent.mkdir(parents=True, exist_ok=True)
    model, processor = train_backbone(
        RECIPE, plan, device=device, log=log, snapshots=snapshots, start=start_from
    )
    save_folder(model, processor, folder)
    record: dict[str, Any] = {
        "plan": asdict(plan),
        "minutes": round((time.monotonic() - start) / 60, 1),
        "machine": f"{os.cpu_count()}-core {platform.machine()} {device.upper()}",
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "curves": log,
    }
    if start_from is not None:
        record["started_from"] = read_object(
            start_from / _LOG_FILE, remedy="give a folder that icons.train wrote"
        )
    write_json(folder / _LOG_FILE, record)
    snapshots.unlink()
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and return the exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("icons.train", __doc__, writes_json=False)
    parser.add_argument(
        "-o", "--output", dest="folder", type=Path, required=True, help="checkpoint folder to write"
    )
    parser.add_argument(
        "--steps-scale", type=float, default=1.0, help="factor on the steps of every stage"
    )
    parser.add_argument(
        "--more", type=Path, metavar="CHECKPOINT",
        help="train a finished checkpoint further, the language stage only",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda")
    return run(parser, _run, arguments)


def _run(options: argparse.Namespace, progress: Progress) -> Result:
    del progress  # the curves are logged instead
    logging.basicConfig(
        level=logging.WARNING if options.quiet else logging.INFO, format="%(message)s"
    )
    # Set before torch starts its thread pool: spinning threads would starve the worker that renders batches.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    plan = (MORE_PLAN if options.more else ICON_PLAN).shortened(options.steps_scale)
    folder = train_icons(options.folder, plan, start_from=options.more, device=options.device)
    return Result(text=str(folder))


if __name__ == "__main__":
    sys.exit(main())
