"""One run of the study, an arm with a seed: trained, diagnosed, and kept as a JSON file so that a stopped study goes on."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from benchmarks.common import write_json
from benchmarks.study.arms import Arm
from benchmarks.study.data import TEST
from benchmarks.study.settings import ABSENT, IMAGE_BLANK, TEXT_BLANK, StudySettings
from moir_edge.children import outside_current_folder
from moir_edge.errors import DataError
from moir_edge.finite import json_text
from moir_edge.json_files import read_object
from moir_edge.progress import Progress, silent
from moir_edge.whole_files import write_whole

if TYPE_CHECKING:
    from benchmarks.study.training import Trained

__all__ = ["Job", "Run", "read_run", "run_jobs"]

_FACTS = "study.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """Result of one run; scores are in %, shares in [0, 1].

    Attributes:
        arm: Name of the arm.
        seed: The seed.
        parameters: How many weights were trained.
        losses: First and last training loss; None where nothing was trained.
        scores: Condition -> `overall` (mean of the tasks, CIDEr-D over 10) or task -> score.
        share_image: Shapley share of the images; None where they and the text count for nothing.
        share_text: Shapley share of the text.
        mdi: Modality dominance index by layer; empty for a validation.
        tasks: Task of every row.
        rows: Condition -> score of every row in [0, 1], in the order of `tasks`.
        seconds: Wall time of training and measurement.
    """

    arm: str
    seed: int
    parameters: int
    losses: tuple[float, float] | None
    scores: dict[str, dict[str, float]]
    share_image: float | None
    share_text: float | None
    mdi: dict[str, float]
    tasks: tuple[str, ...]
    rows: dict[str, tuple[float, ...]]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run to be made.

    Attributes:
        arm: The arm.
        seed: The seed.
        settings: The study's settings, for its backbone.
        folder: The folder of its backbone, with `base`, `train`, `test` and `validation` in it; the tuned checkpoint goes
            to `tuned`.
        records: Folder of the records.
        split: Rows it is measured on: `TEST` or `VALIDATION`.
        gpu: Whether it is trained on a CUDA device; it is measured on the CPU in any case.
    """

    arm: Arm
    seed: int
    settings: StudySettings
    folder: Path
    records: Path
    split: str = TEST
    gpu: bool = False

    @property
    def name(self) -> str:
        """Arm and seed."""
        return f"{self.arm.name}-{self.seed}"

    @property
    def record(self) -> Path:
        """The file of the run's figures."""
        return self.records / f"{self.name}.json"

    @property
    def tuned(self) -> Path:
        """The folder of its checkpoint, which a test takes over from a validation."""
        return self.folder / "tuned" / self.name


_RUN = TypeAdapter(Run)
_REMEDY = "remove it, and the run is made again"


def read_run(path: Path) -> Run:
    """Read a run's figures.

    Raises:
        DataError: The file is damaged.
    """
    record = read_object(path, remedy=_REMEDY)
    try:
        return _RUN.validate_python(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {where}: {first['msg']}; {_REMEDY}") from error


def run_jobs(jobs: list[Job], *, processes: int, threads: int, progress: Progress) -> None:
    """Make the runs that have no record yet, several at a time.

    Args:
        jobs: The runs.
        processes: How many at a time.
        threads: Threads of each.
        progress: Called after every run.
    """
    missing = [job for job in jobs if not job.record.exists()]
    if not missing:
        return
    with outside_current_folder():
        pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
        futures = [pool.submit(_make, job, threads) for job in missing]
    with pool:
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            progress("runs", done, len(missing))


def _make(job: Job, threads: int) -> None:
    """Train and measure one run, and write its record in one step."""
    os.environ.update({} if job.gpu else {"CUDA_VISIBLE_DEVICES": ""})
    import torch

    torch.set_num_threads(threads)
    start = time.monotonic()
    trained = _trained(job)
    figures = _measured(trained.folder, job, threads)
    run = Run(
        arm=job.arm.name,
        seed=job.seed,
        parameters=trained.parameters,
        losses=trained.losses,
        seconds=round(time.monotonic() - start, 1),
        **figures,
    )
    write_whole(job.record, json_text(asdict(run), indent=None) + "\n")


def _trained(job: Job) -> Trained:
    """Return the run's model: the one that an earlier measurement left, or a fresh one, which is kept whole."""
    from benchmarks.study.training import Trained, train_arm

    facts = job.tuned / _FACTS
    if facts.is_file():
        stored = read_object(facts, remedy=f"remove {job.tuned}, and it is trained again")
        losses = stored["losses"]
        return Trained(
            folder=job.tuned, parameters=stored["parameters"], losses=losses and tuple(losses)
        )
    with tempfile.TemporaryDirectory(prefix="moir-edge-study-") as scratch:
        trained = train_arm(
            job.arm,
            job.seed,
            job.settings,
            base=job.folder / "base",
            data=job.folder / job.arm.data / "data.jsonl",
            folder=Path(scratch),
            progress=silent,
        )
        if trained.losses is None:
            return trained  # the base itself
        shutil.rmtree(job.tuned, ignore_errors=True)
        shutil.copytree(trained.folder, job.tuned)
    record = {"parameters": trained.parameters, "losses": trained.losses}
    write_json(facts, record)  # last: a folder without it was not finished
    return dataclasses.replace(trained, folder=job.tuned)


def _measured(checkpoint: Path, job: Job, threads: int) -> dict[str, Any]:
    """Diagnose a checkpoint on the rows of the job's split; a validation leaves the attention out."""
    from benchmarks.study.control_training import attach_control
    from moir_edge.data.rows import read_rows
    from moir_edge.data.variants import ImageStore
    from moir_edge.evaluation.candidates import spec_of
    from moir_edge.evaluation.candidates.checkpoint import CheckpointCandidate
    from moir_edge.evaluation.diagnosis.plan import make_plan
    from moir_edge.evaluation.diagnosis.run import diagnose_candidate
    from moir_edge.evaluation.diagnosis.settings import DiagnoseSettings
    from moir_edge.router import special_token_ids

    wanted = DiagnoseSettings(
        degradations=(job.settings.blur, job.settings.dropout, IMAGE_BLANK, TEXT_BLANK, *ABSENT),
        perceptual=False,
        attention_rows=job.settings.attention_rows if job.split == TEST else 0,
        routing_rows=0,
        threads=threads,
    )
    spec = spec_of(checkpoint, threads=threads, max_new_tokens=wanted.max_new_tokens)
    candidate = CheckpointCandidate(spec)
    ids = frozenset(special_token_ids(candidate.processor.tokenizer))
    attach_control(candidate.model, ids, checkpoint)
    rows = read_rows(job.folder / job.split / "data.jsonl")
    with tempfile.TemporaryDirectory(prefix="moir-edge-study-") as images:
        plan = make_plan(rows, wanted, ImageStore(Path(images)))
        diagnosis, figures = diagnose_candidate(candidate, spec, plan, wanted, None, silent)
    units = {
        one.label: tuple(round(score, 4) for score in figures.units[one.label])
        for one in diagnosis.conditions
    }
    return {**_figures(diagnosis), "tasks": tuple(row.task for row in rows), "rows": units}


def _figures(diagnosis: Any) -> dict[str, Any]:
    shares = diagnosis.shares["overall"]
    scores = {
        one.label: {
            "overall": 100 * one.overall.value,
            **{task: figures.score for task, figures in one.tasks.items()},
        }
        for one in diagnosis.conditions
    }
    attention = diagnosis.attention
    return {
        "scores": scores,
        "share_image": None if shares.share_image is None else shares.share_image.value,
        "share_text": None if shares.share_text is None else shares.share_text.value,
        "mdi": {
            str(one.layer): one.mdi.value
            for one in (() if attention is None else attention.layers)
            if one.mdi is not None
        },
    }
