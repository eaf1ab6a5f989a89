"""The process that compiles one graph: a job on standard input, lines of JSON back, the engine in a file.

A build of its own process gives its memory back when it is done, has a peak of its own, and cannot take the caller down
when the builder crashes or the system runs out of memory.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from moir_edge.engines.builder import build
from moir_edge.engines.jobs import BuildJob
from moir_edge.engines.refit import refit
from moir_edge.errors import MoirEdgeError
from moir_edge.runtime.timing import peak_memory_bytes
from moir_edge.tensorrt_api import load_tensorrt, version_text

__all__ = ["main"]


def main() -> None:
    """Read a `BuildJob`, write ``{"step": n}`` as it advances, then one last line.

    That is ``{"done": …}``, ``{"error": [class, message]}`` or ``{"os_error": [number, text]}``.
    """
    answers = _claim_standard_output()
    try:
        _answer(answers, done=_run(BuildJob.from_json(sys.stdin.read()), answers))
    except MoirEdgeError as error:
        _answer(answers, error=[type(error).__name__, str(error)])
    except BrokenPipeError:
        sys.exit(1)  # nobody waits for this engine any more
    except OSError as error:
        _answer(answers, os_error=[error.errno, error.strerror])


def _run(job: BuildJob, answers: TextIO) -> dict[str, Any]:
    started = time.perf_counter()
    trt = load_tensorrt(job.builder)
    if job.refit_from is None:
        engine = build(trt, job, progress=lambda step, _: _answer(answers, step=step))
    else:
        engine = refit(trt, job)
    Path(job.output).write_bytes(engine)
    return {
        "builder_version": version_text(trt),
        "seconds": round(time.perf_counter() - started, 3),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def _claim_standard_output() -> TextIO:
    """Keep standard output for answers; what libraries print goes to standard error."""
    sys.stdout.flush()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _answer(stream: TextIO, **content: Any) -> None:
    stream.write(json.dumps(content) + "\n")
    stream.flush()
