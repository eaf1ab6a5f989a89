"""Answer jobs on the device: one, or several as the rows of one batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from moir_edge.errors import DataError
from moir_edge.runtime import Generation
from moir_edge.runtime.generation import GenerationRun
from moir_edge.serve.errors import api_error
from moir_edge.serve.jobs import Done, Failed, Job, Piece

__all__ = ["answer"]


def answer(jobs: Sequence[Job], started: float) -> None:
    """Answer jobs and emit what comes of each; whatever fails is emitted, not raised.

    Args:
        jobs: At least one; of several, each goes with the first.
        started: When their turn came, by the clock of `time.monotonic`.
    """
    try:
        run = _begun(jobs)
    except DataError as error:
        if len(jobs) > 1:  # it is the fault of one, and not of the others
            for job in jobs:
                answer([job], time.monotonic())
        else:
            jobs[0].emit(Failed(error=api_error(error)))
        return
    except Exception as error:  # a request must not end the thread that serves all others
        _fail(jobs, error)
        return
    ended: set[int] = set()
    try:
        _run(run, jobs, started, ended)
    except Exception as error:
        _fail([job for row, job in enumerate(jobs) if row not in ended], error)


def _begun(jobs: Sequence[Job]) -> GenerationRun:
    first = jobs[0]
    rows = (job.encoded() for job in jobs)
    run = first.model.begin_rows(rows, settings=first.settings, logprobs=first.logprobs)
    for job in jobs:
        job.hand_over()  # the run has the pixels of several images joined, and needs them once
    return run


def _fail(jobs: Sequence[Job], error: Exception) -> None:
    for job in jobs:
        job.emit(Failed(error=api_error(error)))


def _run(run: GenerationRun, jobs: Sequence[Job], started: float, ended: set[int]) -> None:
    """Take steps until each job has its whole answer, or nobody waits for it."""
    told = [0] * len(jobs)
    for step in run:
        ended |= {row for row, job in enumerate(jobs) if job.cancelled.is_set()}
        for row, job in enumerate(jobs):
            if row in ended:
                continue
            found = run.logprobs[row]
            if job.stream and (step[row] or len(found) > told[row]):
                job.emit(Piece(text=step[row], logprobs=tuple(found[told[row] :])))
                told[row] = len(found)
            if run.rows[row].finish_reason is not None:
                ended.add(row)
                queue_ms = (started - job.queued) * 1000
                whole = _of_row(run.result, row)
                job.emit(Done(generation=whole, queue_ms=queue_ms, logprobs=tuple(found)))
        if len(ended) == len(jobs):
            return


def _of_row(whole: Generation, row: int) -> Generation:
    return replace(
        whole,
        texts=whole.texts[row : row + 1],
        token_ids=whole.token_ids[row : row + 1],
        finish_reasons=whole.finish_reasons[row : row + 1],
        prompt_tokens=whole.prompt_tokens[row : row + 1],
        dropped_image_tokens=whole.dropped_image_tokens[row : row + 1],
        routing=None if whole.routing is None else whole.routing[row : row + 1],
    )
