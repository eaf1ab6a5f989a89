"""Run one build in a process of its own: see `moir_edge.engines.worker`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import moir_edge.errors
from moir_edge.children import child_command, child_environment
from moir_edge.engines.jobs import BuildJob, BuildOutcome
from moir_edge.errors import EnvironmentProblem, MoirEdgeError
from moir_edge.exhaustion import end_of_child
from moir_edge.temporary import nameless_file

__all__ = ["run_build"]

_ENTRY = "moir_edge.engines.worker:main"


def run_build(job: BuildJob, *, progress: Callable[[int], None] | None = None) -> BuildOutcome:
    """Compile one graph; the engine lies at `job.output` then.

    Args:
        job: What to compile.
        progress: Called with a step from 0 to 100; an error that it raises ends the build.

    Raises:
        MoirEdgeError: The worker's own refusal.
        EnvironmentProblem: The worker died, of memory perhaps.
        OSError: The engine cannot be written.
    """
    with nameless_file() as log, _start(log) as process:
        try:
            answer = _converse(process, job, progress)
        except BaseException:
            process.kill()
            raise
        process.wait()
        if answer is None:
            raise _death(job, process.returncode, log)
    if "error" in answer:
        kind, message = answer["error"]
        raise _error_class(kind)(message)
    if "os_error" in answer:
        raise OSError(*answer["os_error"])
    return BuildOutcome(**answer["done"])


def _start(log: IO[bytes]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        child_command(_ENTRY),
        env=child_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,  # Ctrl-C is the parent's to handle
    )


def _converse(
    process: subprocess.Popen[str], job: BuildJob, progress: Callable[[int], None] | None
) -> dict[str, Any] | None:
    """Send the job and return the last answer; None if the worker ended without one."""
    if process.stdin is None or process.stdout is None:
        raise EnvironmentProblem("the build process has no pipes")
    try:
        process.stdin.write(job.to_json())
        process.stdin.close()
    except BrokenPipeError:
        return None
    for line in process.stdout:
        answer: dict[str, Any] = json.loads(line)
        if "step" not in answer:
            return answer
        if progress is not None:
            progress(answer["step"])
    return None


def _death(job: BuildJob, code: int, log: IO[bytes]) -> EnvironmentProblem:
    log.seek(0)
    text = log.read().decode(errors="replace")
    ended = end_of_child(code, text, advice="close other programs or add swap")
    return EnvironmentProblem(f"the build of {Path(job.graph).name} for {job.target} {ended}")


def _error_class(name: str) -> type[MoirEdgeError]:
    found = getattr(moir_edge.errors, name, MoirEdgeError)
    return found if isinstance(found, type) and issubclass(found, MoirEdgeError) else MoirEdgeError
