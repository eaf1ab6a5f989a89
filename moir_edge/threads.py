"""Choose the number of CPU threads of one operation, and how idle ones wait, for ONNX Runtime, torch and numpy's BLAS.

More threads than cores cost more than they bring, because each operation waits for its slowest thread, and threads that spin while
they wait take the time of those that work.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from moir_edge.environment import onnxruntime_version
from moir_edge.errors import DataError, EnvironmentProblem
from moir_edge.exhaustion import cannot_start_threads
from moir_edge.limits import THREADS

__all__ = [
    "THREAD_WAITS",
    "ThreadWait",
    "check_thread_wait",
    "checked_threads",
    "default_thread_wait",
    "default_threads",
    "limited_threads",
    "session_options",
    "wait_policy",
    "waiting_entries",
    "waiting_threads",
]

ThreadWait: TypeAlias = Literal["sleep", "spin"]
"""How an idle thread waits for work: it soon sleeps and has to be woken, or it spins and keeps its core."""

THREAD_WAITS: Final[tuple[ThreadWait, ...]] = ("sleep", "spin")

_VARIABLE = "OMP_NUM_THREADS"
_BEFORE_OMP = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_WAITING = "OMP_WAIT_POLICY"
_POLICIES: Mapping[ThreadWait, str] = {"sleep": "PASSIVE", "spin": "ACTIVE"}

_SPIN, _STOP = "session.intra_op.allow_spinning", "session.force_spinning_stop"
_BRIEFLY: Mapping[str, str] = {"session.intra_op.spin_duration_us": "50"}
"""How long a thread spins before it sleeps: longer than most gaps between two operators that several threads share. Waking
one takes about as long."""

_BRIEFLY_SINCE = (1, 26)
"""The first ONNX Runtime that can tell how long; an earlier one ignores the setting and spins until the run ends."""


def default_threads(root: Path = Path("/")) -> int:
    """Return the number of threads to use where none is asked for.

    That is `OMP_NUM_THREADS` where it is set. Else it is the number of physical cores that this process may run on, or the CPU quota
    of its control group, rounded up, if that is smaller.

    Args:
        root: Where ``sys`` and ``proc`` are mounted.
    """
    asked_for = os.environ.get(_VARIABLE, "").partition(",")[0].strip()
    if asked_for.isdecimal() and int(asked_for) > 0:
        return int(asked_for)
    cores = _physical_cores(root)
    quota = _quota(root)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def check_thread_wait(wait: object) -> None:
    """Refuse anything but a way to wait, or None.

    Raises:
        DataError: With the ways that there are.
    """
    if wait is not None and wait not in THREAD_WAITS:
        raise DataError(f"thread_wait is {wait!r}; it must be one of {', '.join(THREAD_WAITS)}")


def default_thread_wait() -> ThreadWait:
    """Return how idle threads wait where nothing is asked for: as `OMP_WAIT_POLICY` says, else they sleep."""
    asked_for = os.environ.get(_WAITING, "").strip().upper()
    return "spin" if asked_for == _POLICIES["spin"] else "sleep"


def wait_policy(wait: ThreadWait | None = None) -> dict[str, str]:
    """Return the variable that tells libraries of a process how idle threads wait.

    Args:
        wait: None leaves it to `default_thread_wait`.
    """
    return {_WAITING: _POLICIES[wait or default_thread_wait()]}


@contextmanager
def waiting_threads(wait: ThreadWait | None) -> Iterator[None]:
    """Say how idle threads wait that are started in the block, here and in processes that it starts.

    Args:
        wait: None leaves it to `default_thread_wait`.
    """
    before = os.environ.get(_WAITING)
    os.environ.update(wait_policy(wait))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_WAITING, None)
        else:
            os.environ[_WAITING] = before


@contextmanager
def limited_threads(threads: int | None) -> Iterator[int]:
    """Give torch, OpenMP and BLAS a number of threads, in this process and in those it starts; idle ones sleep by default.

    Libraries that are imported inside the block read it then; torch is told if it is there already. numpy's BLAS, whose threads
    cannot be started, sends the signal of Ctrl-C, and waits forever in a process that ignores it, such as a shell's background job.

    Args:
        threads: None for `default_threads`.

    Yields:
        The number.

    Raises:
        DataError: More threads than `moir_edge.limits.THREADS`.
        EnvironmentProblem: So many threads cannot be started.
    """
    count = checked_threads(threads)
    # Libraries follow OMP_NUM_THREADS unless they have a number of their own.
    counts = (_VARIABLE, *(name for name in _BEFORE_OMP if name in os.environ))
    changed = {**dict.fromkeys(counts, str(count)), **wait_policy()}
    before = {name: os.environ.get(name) for name in changed}
    torch = sys.modules.get("torch")
    torch_before = torch.get_num_threads() if torch else None
    os.environ.update(changed)
    # Setting the number that torch has already would change how it splits its sums all the same.
    if torch and torch_before != count:
        torch.set_num_threads(count)
    try:
        yield count
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if torch and torch_before != count:
            torch.set_num_threads(torch_before)


def checked_threads(threads: int | None = None) -> int:
    """Return the number of threads of one operator once this machine is known to start them.

    Args:
        threads: None for `default_threads`.

    Raises:
        DataError: More threads than `moir_edge.limits.THREADS`.
        EnvironmentProblem: So many threads cannot be started.
    """
    count = threads or default_threads()
    if count > THREADS:
        raise DataError(f"`threads` is {count}; at most {THREADS:,} are taken")
    if problem := cannot_start_threads(count - 1):  # the thread that calls is one of them
        raise EnvironmentProblem(problem)
    return count


def session_options(threads: int | None = None, wait: ThreadWait | None = None) -> Any:
    """Return options of an ONNX Runtime session, which logs errors only.

    Args:
        threads: Of one operator; None for `default_threads`.
        wait: How idle threads wait; None for `default_thread_wait`.

    Raises:
        DataError: More threads than `moir_edge.limits.THREADS`.
        EnvironmentProblem: So many threads cannot be started.
    """
    import onnxruntime

    count = checked_threads(threads)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings are about fusions it did not find
    options.intra_op_num_threads = count
    for key, value in waiting_entries(wait or default_thread_wait()).items():
        options.add_session_config_entry(key, value)
    return options


def waiting_entries(wait: ThreadWait) -> dict[str, str]:
    """Return ONNX Runtime's settings of one way to wait; in both, threads of a session that has nothing to run leave their cores.

    Args:
        wait: The way.
    """
    if wait == "spin":
        return {_SPIN: "1", _STOP: "1"}
    if onnxruntime_version() >= _BRIEFLY_SINCE:
        return {_SPIN: "1", _STOP: "1", **_BRIEFLY}
    return {_SPIN: "0"}


def _physical_cores(root: Path) -> int:
    """Count the cores of the CPUs that this process may run on; two hardware threads of one core count once."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cpus = os.sched_getaffinity(0)
    return len({_siblings(root, cpu) for cpu in cpus})


def _siblings(root: Path, cpu: int) -> str:
    path = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    return _text(path) or str(cpu)


def _quota(root: Path) -> float | None:
    """Return how many CPUs the control group may use at once; None without a limit."""
    quotas = [_quota_of(folder) for folder in _group_folders(root)]
    limits = [quota for quota in quotas if quota is not None]
    return min(limits) if limits else None


def _group_folders(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control groups and of those around them, of both versions."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in ("sys/fs/cgroup", f"sys/fs/cgroup/{controllers}", "sys/fs/cgroup/cpu"):
            folder = root / mount / path.lstrip("/")
            yield folder
            while folder != root / mount and root / mount in folder.parents:
                folder = folder.parent
                yield folder


def _quota_of(folder: Path) -> float | None:
    words = _text(folder / "cpu.max").split()
    if not words:
        words = [_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")]
    try:
        quota, period = int(words[0]), int(words[1])
    except (ValueError, IndexError):  # "max", or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
