"""Memory, threads, files, disk and nesting that run out are one line with exit code 2, under real limits too."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from moir_edge.children import child_command, child_environment
from moir_edge.cli import main as cli
from moir_edge.errors import BundleError, DataError, EnvironmentProblem
from moir_edge.exhaustion import cannot_start_threads, end_of_child, exhaustion
from moir_edge.limits import THREADS
from moir_edge.threads import session_options

_MB = 1 << 20
DEMO = Path(cli.__file__).parents[1] / "demo" / "checkpoint"


def raised(kind: Callable[[], object]) -> BaseException:
    try:
        kind()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def nested() -> object:
    return json.loads("[" * 100_000)


def from_memory() -> None:
    try:
        raise MemoryError
    except MemoryError as error:
        raise DataError("the weights cannot be read; copy them again") from error


@pytest.mark.parametrize(
    ("error", "start"),
    [
        (MemoryError(), "memory ran out; "),
        (raised(lambda: np.zeros((1 << 40, 1 << 4))), "memory ran out (Unable to allocate 128. TiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "memory ran out (D"),
        (RuntimeError("CUDA error: out of memory"), "memory ran out ("),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory ran out ("),
        (raised(from_memory), "memory ran out; "),
        (RuntimeError("can't start new thread"), "no more threads or processes can be started ("),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "no more threads or"),
        (OSError(errno.EMFILE, "Too many open files", "a.png"), "too many files are open ("),
        (OSError(errno.ENOSPC, "No space left on device", "b"), "the disk is full ("),
        (raised(nested), "an input is nested too deeply to be read ("),
    ],
)  # fmt: skip
def test_what_ran_out_is_said_with_a_remedy(error: BaseException, start: str) -> None:
    line = exhaustion(error)
    assert line is not None
    assert line.startswith(start)
    assert "; " in line
    assert len(line) < 500


@pytest.mark.parametrize(
    "error",
    [
        ValueError("the prompt 'out of memory' is not JSON"),  # it quotes what a file holds
        DataError("a picture named out of memory.png"),
        EnvironmentProblem("disk full while writing x"),
        KeyboardInterrupt(),
        FileNotFoundError(errno.ENOENT, "No such file"),
        BundleError("ends early"),
    ],
)
def test_other_errors_keep_their_own_words(error: BaseException) -> None:
    assert exhaustion(error) is None


def test_onnx_runtimes_allocator_is_known() -> None:
    kind = onnxruntime.capi.onnxruntime_pybind11_state.Fail
    line = exhaustion(
        kind("bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 9")
    )
    assert line is not None
    assert line.startswith("memory ran out (bfc_arena.cc:360 Failed")


def test_the_end_of_a_child() -> None:
    assert end_of_child(-9, "", advice="try less") == (
        "was killed by signal 9; if memory ran out, try less"
    )
    assert end_of_child(3, "one\nlast \x1b[2J words\n", advice="try less") == (
        r"ended with exit code 3 (its last line: last \x1b[2J words)"
    )
    aborted = "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n"
    assert end_of_child(-6, aborted, advice="").startswith(
        "was killed by signal 6; memory ran out: "
    )
    assert "; memory ran out: " in end_of_child(1, "Traceback\nMemoryError\n", advice="")


def test_threads_can_be_started_and_are_bounded() -> None:
    assert cannot_start_threads(3) is None
    with pytest.raises(DataError, match=f"`threads` is {THREADS + 1}; at most 1,024 are taken"):
        session_options(THREADS + 1)


def run_limited(
    *words: object, memory: int | None = None, stack: int | None = None, files: int | None = None, threads: int = 1,
    interrupts: signal.Handlers = signal.SIG_DFL,
) -> tuple[int, str]:  # fmt: skip
    """Return exit code and standard error of the real command, under limits in MB and in open files."""

    def limit() -> None:
        signal.signal(signal.SIGINT, interrupts)
        # glibc gives each thread a stack of the limit at the start of the process.
        pairs = ((resource.RLIMIT_STACK, stack, _MB), (resource.RLIMIT_NOFILE, files, 1))
        for kind, value, unit in (*pairs, (resource.RLIMIT_AS, memory, _MB)):
            if value is not None:
                resource.setrlimit(kind, (value * unit, value * unit))

    done = subprocess.run(
        child_command("moir_edge.__main__:main", *map(str, words)),
        env=child_environment({"OMP_NUM_THREADS": str(threads)}),
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from moir_edge.export import export_bundle

    return export_bundle(DEMO, tmp_path_factory.mktemp("exhaustion") / "bundle")


def test_too_little_memory_for_the_libraries(demo_bundle: Path) -> None:
    code, err = run_limited("run", demo_bundle, "-p", "x", "-q", memory=100)
    assert code == 2
    assert err == (
        "error: the limit of 105 MB on this process's memory leaves no 201 MB for the libraries; raise it (ulimit -v)\n"
    )
    assert run_limited("run", "--help", memory=100)[0] == 0


def test_too_little_memory_for_torch(tmp_path: Path) -> None:
    code, err = run_limited("export", DEMO, "-o", tmp_path / "bundle", "-q", memory=1000)
    assert code == 2
    assert err.startswith("error: the limit of 1049 MB on this process's memory leaves no 1611 MB ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "work",
    [
        "import numpy; use(1); numpy.ones(1 << 27)",
        "import torch; use(1); torch.ones(1 << 28)",
        "use(1); bytearray(1 << 30)",
        "import numpy; use(1); held = [bytes(1 << 10) for _ in range(1 << 20)]",
    ],
)
def test_a_command_that_runs_out_of_memory(work: str) -> None:
    """A command in the real process of the command line, with 64 MB of address space left when it starts to work."""
    code = f"""
import resource, sys
import moir_edge.cli.main as cli
from moir_edge.__main__ import main

def use(_):
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20),) * 2)

def command():
    {work}

cli.COMMANDS = ("targets", "inspect")
cli._register = lambda app, name: app.command("work" if name == "targets" else name)(command)
sys.argv[1:] = ["work"]
sys.exit(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: memory ran out")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("interrupts", [signal.SIG_DFL, signal.SIG_IGN])
@pytest.mark.parametrize("words", [("--threads", 2), ()])
def test_threads_that_cannot_be_started(
    demo_bundle: Path, words: tuple[object, ...], interrupts: signal.Handlers
) -> None:
    """A shell's background job ignores interrupts, and one is all that numpy's BLAS would say."""
    command = ("run", demo_bundle, "-p", "x", "-q", *words)
    code, err = run_limited(*command, memory=600, stack=1000, threads=2, interrupts=interrupts)
    assert (code, err) == (
        2,
        "error: no more threads or processes can be started (can't start new thread); use fewer (--threads 1), "
        "or raise the limit (ulimit -u, the container's pids)\n",
    )


def test_sessions_never_wait_for_threads_that_cannot_be_started(demo_bundle: Path) -> None:
    # Without numpy's threads, which fail earlier; ONNX Runtime alone would wait forever.
    code = (
        "import resource, moir_edge, numpy, onnxruntime, pydantic\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + (600 << 20),) * 2)\n"
        f"moir_edge.load({str(demo_bundle)!r}, threads=256)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 1
    assert "EnvironmentProblem: no more threads or processes can be started" in done.stderr


def test_too_few_files_may_be_open(demo_bundle: Path) -> None:
    few = ("--prompt-words", 3, "--repeats", 1, "--max-new-tokens", 2)
    code, err = run_limited("bench", demo_bundle, *few, "-q", files=8)
    assert code == 2
    assert err == (
        "error: too many files are open ([Errno 24] Too many open files); raise the limit (ulimit -n 1024)\n"
    )


def test_a_candidate_without_memory_is_named_by_the_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moir_edge.evaluation.candidates import CandidateSpec
    from moir_edge.evaluation.process import CandidateProcess

    # The real worker, whose libraries do not fit into the address space that is left to it.
    start = subprocess.Popen

    def limited(*words: object, **options: object) -> subprocess.Popen[bytes]:
        limit = (300 * _MB, 300 * _MB)
        return start(
            *words, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit), **options
        )  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr("moir_edge.evaluation.process.subprocess.Popen", limited)
    spec = CandidateSpec(
        name="torch", source=str(DEMO), kind="checkpoint", threads=1, max_new_tokens=4
    )
    with pytest.raises(EnvironmentProblem, match=r"torch.*memory ran out"):
        CandidateProcess(spec, [])


def test_an_error_while_memory_is_short_frees_what_its_frames_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Large:
        held = 0

        def __init__(self) -> None:
            Large.held += 1

        def __del__(self) -> None:
            Large.held -= 1

    def fail() -> None:
        large = Large()
        assert large.held == 1
        raise MemoryError

    seen: list[int] = []
    monkeypatch.setattr(cli, "build_app", lambda: lambda **_: fail())
    monkeypatch.setattr(cli, "_in_flags", lambda text, _: [text, seen.append(Large.held)][0])
    assert cli.main(["run"]) == 2
    assert seen == [0]
    assert capsys.readouterr().err.startswith("error: memory ran out; close other programs")
