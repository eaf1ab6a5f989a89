"""Run the study of routers on its backbones and rewrite its page, `docs/study.md`.

The record of every finished run is kept, so a study that was stopped goes on where it was, on another machine too. Without
`-o` no run is made, and `--docs` shows those that are kept. `--validate` measures on validation rows and adds a line to the
record of tries. Without it the test rows are read: once, with one set of arms and settings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Result, add_count, new_parser, run
from benchmarks.study.arms import BASE, CONTROLS, DECIDING, EQUAL, MAIN, SHUFFLED, WINNER, Arm
from benchmarks.study.backbones import BACKBONES, Backbone, find_backbone
from benchmarks.study.comparisons import claims
from benchmarks.study.data import TEST, VALIDATION, prepare_data, variance_left
from benchmarks.study.page import BackboneFigures, Study, write_page
from benchmarks.study.readings import READINGS, note_reading, plan_of, read_readings
from benchmarks.study.runs import Job, Run, read_run, run_jobs
from benchmarks.study.settings import StudySettings
from benchmarks.study.summary import ArmFigures, arm_figures
from benchmarks.study.training import base_checkpoint
from benchmarks.study.tries import TRIES, changed, new_try, note_tries, read_tries
from moir_edge.errors import DataError, EnvironmentProblem, closest
from moir_edge.evaluation.machine import available_cores
from moir_edge.finite import json_text
from moir_edge.progress import Progress
from moir_edge.whole_files import write_whole

__all__ = ["main"]

_SETTINGS = "settings.json"
RECORDS = Path(__file__).with_name("records")
"""The records of runs on test rows that the repository keeps: a folder for each backbone and plan."""

_KEPT = {
    "tries": (TRIES, "record of the tries"),
    "readings": (READINGS, "record of test readings"),
    "records": (RECORDS, "folder of the runs' records"),
}
"""What the repository keeps, by the option that puts it elsewhere."""

_ARMS = (*MAIN, *CONTROLS, SHUFFLED)
_GUESS_SECONDS = 200.0
"""Wall time of a run before there is one to go by: 400 steps and 720 rows under five conditions, on one core."""

SMOKE = StudySettings(
    seeds=(0,), deciding_seeds=(0,), steps=2, batch_size=2, train_rows=12, test_rows=6, validation_rows=6,
    attention_rows=2,
)  # fmt: skip
SMOKE_ARMS = (BASE, *DECIDING)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the missing runs, write the page and return the exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("study", __doc__, writes_json=False)
    parser.add_argument(
        "-o", "--output", dest="folder", type=Path, help="folder of data and checkpoints; none makes no run"
    )  # fmt: skip
    parser.add_argument("--docs", type=Path, help="folder of study.md and its plots")
    parser.add_argument(
        "--arm", action="append", metavar="NAME", help="only this arm; several times for several"
    )
    parser.add_argument(
        "--seed", action="append", type=int, metavar="N", help="only this seed; several times for several"
    )  # fmt: skip
    parser.add_argument(
        "--backbone", action="append", metavar="NAME", help="only this backbone: digits or icons"
    )
    parser.add_argument(
        "--validate", action="store_true", help="measure on validation rows, and record the tries"
    )
    parser.add_argument(
        "--set", action="append", default=[], dest="changes", metavar="KEY=VALUE",
        help="with --validate: change the arm, its router (router.rank=8) or the budget (steps=200)",
    )  # fmt: skip
    parser.add_argument("--note", default="", help="with --validate: why this is tried")
    parser.add_argument(
        "--again", action="store_true", help="read the test rows with other arms or settings than before"
    )  # fmt: skip
    parser.add_argument(
        "--cost", action="store_true", help="print the missing runs and what they cost, and stop"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="two steps, six rows, three arms; records are in the folder of -o"
    )  # fmt: skip
    parser.add_argument(
        "--gpu", action="store_true", help="train on a CUDA device; measured on the CPU"
    )
    for name, (_, about) in _KEPT.items():
        parser.add_argument(f"--{name}", type=Path, help=f"{about} (default: the study's own)")
    add_count(parser, "--jobs", available_cores(), "runs at a time, a thread each")
    return run(parser, _run, arguments)


def _run(options: argparse.Namespace, progress: Progress) -> Result:
    _check(options)
    for name, (kept, _) in _KEPT.items():
        if getattr(options, name) is None:
            setattr(options, name, options.folder / kept.name if options.smoke else kept)
    common = SMOKE if options.smoke else StudySettings()
    backbones = [
        find_backbone(name) for name in options.backbone or [one.name for one in BACKBONES]
    ]
    jobs = {one.name: _jobs(one, common, options) for one in backbones}
    missing = [job for own in jobs.values() for job in own if not job.record.exists()]
    cost = _cost(missing, options.jobs)
    if options.cost:
        return Result(text=cost)
    if options.folder is not None:
        for backbone in backbones:
            if not options.validate:
                plan = _plan(backbone, common)
                note_reading(options.readings, backbone.name, plan, again=options.again)
            _prepare(options.folder, backbone, common)
        run_jobs(missing, processes=options.jobs, threads=1, progress=progress)
    if options.validate:
        for backbone in backbones:
            _record_tries(jobs[backbone.name], backbone, common, options)
    if options.docs is not None:
        write_page(_study(backbones, common, options), options.docs)
    return Result(text=cost)


def _check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together.

    Raises:
        DataError: They do not, or an arm is unknown.
        EnvironmentProblem: There is no CUDA device.
    """
    for given, name in ((options.changes, "--set"), (options.note, "--note")):
        if given and not options.validate:
            raise DataError(f"{name} changes what is tried on validation rows; add --validate")
    if options.validate and options.docs is not None:
        raise DataError("the page shows figures of test rows; leave --docs or --validate out")
    needs = options.validate or options.smoke or not (options.cost or options.docs)
    if options.folder is None and needs:
        raise DataError(
            "no folder to make runs in; give one with -o, or show kept runs with --docs"
        )
    known = {arm.name: arm for arm in _ARMS}
    for name in options.arm or ():
        if name not in known:
            raise DataError(f"unknown arm {name!r}: {closest(name, known)}")
    if options.gpu:
        import torch

        if not torch.cuda.is_available():
            raise EnvironmentProblem("--gpu: torch sees no CUDA device; leave it out")


def _plan(backbone: Backbone, common: StudySettings) -> str:
    return plan_of(backbone.settings(common), _ARMS)


def _records(backbone: Backbone, common: StudySettings, options: argparse.Namespace) -> Path:
    """Return the folder of a backbone's records; runs on test rows with other arms or settings have another one."""
    if options.validate:
        return Path(options.folder / backbone.name / "runs" / VALIDATION)
    return Path(options.records / f"{backbone.name}-{_plan(backbone, common)}")


def _jobs(backbone: Backbone, common: StudySettings, options: argparse.Namespace) -> list[Job]:
    """Return the runs that were asked for, the base first: everything is held against it."""
    settings, records = backbone.settings(common), _records(backbone, common, options)
    wanted = options.arm or (SMOKE_ARMS if options.smoke else [arm.name for arm in _ARMS])
    jobs = []
    for arm in _ARMS:
        if arm.name != BASE and arm.name not in wanted:
            continue
        new, own = (arm, settings) if arm.name == BASE else changed(arm, settings, options.changes)
        seeds = _seeds(arm, settings)
        if options.seed is not None and arm.train is not None:
            seeds = tuple(options.seed)
        if options.validate and options.seed is None:
            seeds = seeds[:1]
        jobs += [
            Job(
                arm=new, seed=seed, settings=own, folder=(options.folder or Path()) / backbone.name,
                records=records, split=VALIDATION if options.validate else TEST, gpu=options.gpu,
            )
            for seed in seeds
        ]  # fmt: skip
    return jobs


def _seeds(arm: Arm, settings: StudySettings) -> tuple[int, ...]:
    """Every seed for the main arms that are trained, more for the two that decide; one for the others."""
    if arm.name in DECIDING:
        return settings.deciding_seeds
    return settings.seeds if arm in MAIN and arm.train is not None else settings.seeds[:1]


def _prepare(folder: Path, backbone: Backbone, common: StudySettings) -> None:
    """Write base checkpoint and data of a backbone, once; runs with other settings are not mixed.

    Raises:
        DataError: The folder holds a study with other settings.
    """
    own, settings = folder / backbone.name, backbone.settings(common)
    record, made = json_text(settings.record(), indent=1), own / _SETTINGS
    if made.exists():
        if made.read_text() != record:
            raise DataError(f"{own} holds a study with other settings; give another folder")
        return
    base_checkpoint(backbone.checkpoint, own / "base")
    prepare_data(settings, own, backbone.theme)
    write_whole(made, record)


def _cost(missing: Sequence[Job], processes: int) -> str:
    """Say how many runs are missing, and how long they take by the runs that are there."""
    if not missing:
        return "every run is made"
    folders = {job.records for job in missing}
    times = [read_run(file).seconds for folder in folders for file in folder.glob("*.json")]
    each = sum(times) / len(times) if times else _GUESS_SECONDS
    hours = each * len(missing) / processes / 3600
    basis = f"by {len(times)} runs that are kept" if times else "by the runs of a 2-core machine"
    return (
        f"{len(missing)} runs are to be made: about {hours:.1f} hours, {processes} at a time ({each:.0f} s each, {basis})\n"
        + "\n".join(f"  {job.folder.name}: {job.name}" for job in missing)
    )


def _record_tries(
    jobs: Sequence[Job], backbone: Backbone, common: StudySettings, options: argparse.Namespace
) -> None:
    base = read_run(jobs[0].record)
    arms = {arm.name: arm for arm in _ARMS}
    tries = [
        new_try(
            read_run(job.record), base, backbone=backbone.name, arm=arms[job.arm.name.partition("+")[0]],
            changes=options.changes, settings=job.settings, note=options.note,
        )
        for job in jobs[1:]
    ]  # fmt: skip
    note_tries(options.tries, tries)


def _study(
    backbones: Sequence[Backbone], common: StudySettings, options: argparse.Namespace
) -> Study:
    seconds = [
        read_run(file).seconds
        for backbone in backbones
        for file in _records(backbone, common, options).glob("*.json")
    ]
    figures = {one.title: _figures(one, common, options) for one in backbones}
    parts = [one for one in figures.values() if one is not None]
    if not parts:
        raise DataError(f"{options.records} has no run of a base; make it with -o")
    return Study(
        parts=parts,
        tries=read_tries(options.tries),
        readings=read_readings(options.readings),
        hours=sum(seconds) / 3600,
        untouched=[title for title, one in figures.items() if one is None],
    )


def _figures(
    backbone: Backbone, common: StudySettings, options: argparse.Namespace
) -> BackboneFigures | None:
    """Return what is known of a backbone; None as long as its base has no run: everything is held against it."""
    settings, records = backbone.settings(common), _records(backbone, common, options)
    runs: dict[str, list[Run]] = {}
    missing = []
    for arm in _ARMS:
        for seed in _seeds(arm, settings):
            job = Job(arm=arm, seed=seed, settings=settings, folder=records, records=records)
            if job.record.exists():
                runs.setdefault(arm.name, []).append(read_run(job.record))
            else:
                missing.append(job.name)
    if BASE not in runs:
        return None

    def figures(arm: Arm) -> ArmFigures | None:
        own = runs.get(arm.name)
        return None if own is None else arm_figures(arm, own, runs[BASE], settings)

    shown = [one for one in map(figures, (*MAIN, *CONTROLS)) if one is not None]
    equal = [runs[arm.name] for arm in EQUAL if arm.name in runs]
    router = runs.get(DECIDING[0])
    return BackboneFigures(
        backbone=backbone,
        settings=settings,
        arms=shown,
        claims=() if router is None else claims(router, runs[BASE], equal, settings),
        shuffled=figures(SHUFFLED),
        winner=figures(WINNER),
        variance_left=variance_left(settings, backbone.theme),
        missing=missing,
    )


if __name__ == "__main__":
    sys.exit(main())
