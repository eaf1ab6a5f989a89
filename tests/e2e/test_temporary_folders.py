"""Commands that are ended in the middle: nothing temporary stays after SIGTERM and Ctrl-C, nor after a kill and the next command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from moir_edge.demo import demo_rows, write_jsonl

pytestmark = pytest.mark.slow
Command = Callable[[Path], list[str]]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows enough for a command to be in the middle of them for some seconds."""
    return write_jsonl(demo_rows("test", count=200), tmp_path_factory.mktemp("rows"))


@pytest.fixture(params=["diagnose", "export"])
def command(request: pytest.FixtureRequest, demo_checkpoint: Path, rows: Path) -> Command:
    """A command that keeps degraded images, and one that keeps float graphs, in a temporary folder."""

    def words(output: Path) -> list[str]:
        given = {
            "diagnose": ["diagnose", str(demo_checkpoint), "--data", str(rows)],
            "export": ["export", str(demo_checkpoint), "--precision", "int8", "--calib-data", str(rows)],
        }[request.param]  # fmt: skip
        return [sys.executable, "-m", "moir_edge", *given, "-o", str(output)]

    return words


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def _started(words: list[str], root: Path) -> subprocess.Popen[bytes]:
    """Start a command and return once it has written into a temporary folder."""
    # What a shell starts in the background ignores interrupts, and so would its children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        words,
        env={**os.environ, "TMPDIR": str(root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 600
    while not any(root.glob("moir-edge-*/files/*")):
        assert process.poll() is None, "the command ended without a temporary folder"
        assert time.monotonic() < deadline, "the command made no temporary folder in ten minutes"
        time.sleep(0.05)
    return process


def _next_command(root: Path, bundle: Path, output: Path) -> None:
    """Run a short command that makes a temporary folder of its own."""
    words = ["bench", str(bundle), "--provider", "cpu", "-o", str(output)]
    subprocess.run(
        [sys.executable, "-m", "moir_edge", *words, "--repeats", "1", "--max-new-tokens", "2"],
        env={**os.environ, "TMPDIR": str(root)},
        check=True,
        capture_output=True,
    )


def test_the_next_command_removes_what_a_killed_one_left(
    command: Command, root: Path, demo_bundle: Path, tmp_path: Path
) -> None:
    process = _started(command(tmp_path / "out"), root)
    process.kill()
    process.wait()
    assert list(root.iterdir()) != []
    assert all(one.stat().st_mode & 0o777 == 0o700 for one in root.iterdir())
    _next_command(root, demo_bundle, tmp_path / "bench")
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_is_ended_leaves_nothing(
    command: Command, root: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = _started(command(tmp_path / "out"), root)
    process.send_signal(number)
    assert process.wait(600) == code
    assert list(root.iterdir()) == []
    assert [one.name for one in tmp_path.iterdir()] == ["scratch"]
