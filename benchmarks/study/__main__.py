"""Run the study of the demo's routers and rewrite its page, `docs/study.md`.

Finished runs in the folder are kept, so a study that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Result, add_count, new_parser, run
from benchmarks.study.arms import CONTROLS, MAIN, SHUFFLED, WINNER, Arm
from benchmarks.study.data import prepare_data, variance_left
from benchmarks.study.page import Study, write_page
from benchmarks.study.runs import Job, read_run, run_jobs
from benchmarks.study.settings import StudySettings
from benchmarks.study.summary import ArmFigures, arm_figures
from benchmarks.study.training import base_checkpoint
from moir_edge.demo import checkpoint_path
from moir_edge.errors import DataError
from moir_edge.evaluation.machine import available_cores
from moir_edge.finite import json_text
from moir_edge.progress import Progress
from moir_edge.whole_files import write_whole

__all__ = ["main"]

_SETTINGS = "settings.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the missing runs, write the page and return the exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("study", __doc__, writes_json=False)
    parser.add_argument(
        "-o", "--output", dest="folder", type=Path, required=True, help="folder of the runs"
    )
    parser.add_argument("--docs", type=Path, help="folder of study.md and its plots")
    parser.add_argument(
        "--keep", type=Path, help="where the first seed's checkpoint of the winner is kept"
    )
    add_count(parser, "--processes", available_cores(), "runs at a time, a thread each")
    return run(parser, _run, arguments)


def _run(options: argparse.Namespace, progress: Progress) -> Result:
    settings = StudySettings()
    _prepare(options.folder, settings)
    jobs = [
        Job(
            arm=arm,
            seed=seed,
            settings=settings,
            folder=options.folder,
            keep=options.keep if (arm, seed) == (WINNER, settings.seeds[0]) else None,
        )
        for arm in sorted((*MAIN, SHUFFLED, *CONTROLS), key=lambda arm: arm != WINNER)
        for seed in _seeds(arm, settings)
    ]
    run_jobs(jobs, processes=options.processes, threads=1, progress=progress)
    if options.docs is not None:
        write_page(_study(options.folder, settings), options.docs)
    return Result(text="")


def _prepare(folder: Path, settings: StudySettings) -> None:
    """Write base checkpoint and data, once; runs with other settings are not mixed.

    Raises:
        DataError: The folder holds a study with other settings.
    """
    record, made = json_text(settings.record(), indent=1), folder / _SETTINGS
    if made.exists():
        if made.read_text() != record:
            raise DataError(f"{folder} holds a study with other settings; give another folder")
        return
    base_checkpoint(checkpoint_path(), folder / "base")
    prepare_data(settings, folder)
    write_whole(made, record)


def _seeds(arm: Arm, settings: StudySettings) -> tuple[int, ...]:
    """Every seed for the main arms that are trained; one for the base and the controls."""
    return settings.seeds if arm in MAIN and arm.train is not None else settings.seeds[:1]


def _study(folder: Path, settings: StudySettings) -> Study:
    def figures(arm: Arm) -> ArmFigures:
        names = [f"{arm.name}-{seed}.json" for seed in _seeds(arm, settings)]
        return arm_figures(arm, [read_run(folder / "runs" / name) for name in names], settings)

    return Study(
        settings=settings,
        main=[figures(arm) for arm in MAIN],
        controls=[figures(arm) for arm in CONTROLS],
        winner=figures(WINNER),
        shuffled=figures(SHUFFLED),
        variance_left=variance_left(settings),
    )


if __name__ == "__main__":
    sys.exit(main())
