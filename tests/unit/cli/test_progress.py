"""Progress of the commands: lines behind a pipe, a bar on a terminal, nothing under -q."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

import moir_edge
from moir_edge.cli import main as cli
from moir_edge.cli.progress import StageLines, show_progress
from moir_edge.progress import silent, single_step

LONG = ("retrofit", "tune", "diagnose", "export", "build", "run", "bench", "compare", "demo")
# Each state stays until it is drawn, however busy the machine is, and the whole takes more than a second.
_ON_A_TERMINAL = """
import time
from rich.live import Live
from moir_edge.cli.progress import show_progress
drawn, refresh = [0], Live.refresh
def counted(live):
    refresh(live)
    drawn[0] += 1
Live.refresh = counted
started = time.monotonic()
with show_progress("compare", quiet={quiet}) as progress:
    bar = drawn[0] > 0
    for done in range(5):
        if done == 4:
            time.sleep(max(0, 1.2 - (time.monotonic() - started)))
        progress("answers of [red]", done, 4)
        before = drawn[0]
        while bar and drawn[0] < before + 2:
            time.sleep(0.01)
print("result")
"""


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_at_the_start_at_the_end_and_every_30_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    lines = StageLines("compare", stream, clock)
    for done in range(0, 1201, 100):
        lines("answering", done, 1200)
        clock.now += 10
    assert stream.getvalue().splitlines() == [
        "compare: answering 0/1,200",
        "compare: answering 300/1,200, 1:30 left",
        "compare: answering 600/1,200, 1:00 left",
        "compare: answering 900/1,200, 0:30 left",
        "compare: answering 1,200/1,200 in 2:00",
    ]


def test_a_stage_that_comes_again_starts_again() -> None:
    stream = io.StringIO()
    lines = StageLines("bench", stream, Clock())
    for _ in range(2):
        with single_step(lines, "loading"):
            pass
    assert stream.getvalue() == "bench: loading\nbench: loading done\n" * 2


def test_hours_are_told() -> None:
    clock, stream = Clock(), io.StringIO()
    lines = StageLines("tune", stream, clock)
    lines("tuning", 0, 10)
    clock.now += 1800
    lines("tuning", 1, 10)
    assert stream.getvalue().splitlines()[1] == "tune: tuning 1/10, 4:30:00 left"


def test_behind_a_pipe_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("tune") as progress:
        progress("tuning", 0, 2)
        progress("tuning", 2, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "tune: tuning 0/2\ntune: tuning 2/2\n"


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("tune", quiet=True) as progress:
        assert progress is silent
        progress("tuning", 0, 2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", LONG)
def test_every_long_command_can_be_quiet(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    assert re.search(r"-q, --quiet\s+Show no progress", capsys.readouterr().out)


@pytest.mark.parametrize("columns", [40, 100])
def test_a_terminal_gets_count_percentage_and_time_left(columns: int) -> None:
    drawn = _on_a_terminal(_ON_A_TERMINAL.format(quiet=False), COLUMNS=str(columns))
    assert re.search(r"3/4\s+75%\s+\d\d:\d\d", drawn)
    assert "compare: ans" in drawn
    assert re.search(r"compare: answers of \[red\] 4/4 in \d+:\d\d", drawn)
    assert all(len(line) <= columns for line in re.split(r"[\r\n]", drawn))


def test_an_ascii_terminal_gets_an_ascii_bar() -> None:
    drawn = _on_a_terminal(_ON_A_TERMINAL.format(quiet=False), PYTHONIOENCODING="ascii")
    assert drawn.isascii()
    assert "50%" in drawn


def test_a_terminal_that_cannot_move_the_cursor_gets_lines() -> None:
    drawn = _on_a_terminal(_ON_A_TERMINAL.format(quiet=False), TERM="dumb")
    begun, ended, result = drawn.splitlines()
    assert (begun, result) == ("compare: answers of [red] 0/4", "result")
    assert re.fullmatch(r"compare: answers of \[red\] 4/4 in \d+:\d\d", ended)


def test_quiet_on_a_terminal() -> None:
    assert _on_a_terminal(_ON_A_TERMINAL.format(quiet=True)) == "result\r\n"


def test_piped_output_is_not_drawn_into_the_bar() -> None:
    code = _ON_A_TERMINAL.format(quiet=False).replace('print("result")', '    print("result")')
    shell = f"{sys.executable} - <<'E' | cat > /dev/null\n{code}\nE\n"
    assert "result" not in _drawn(["/bin/sh", "-c", shell])


def test_there_is_one_type_of_callback() -> None:
    root = Path(moir_edge.__file__).parents[1]
    folders = (root / "moir_edge", root / "benchmarks")
    defining = [
        path.name
        for folder in folders
        for path in folder.rglob("*.py")
        if "Callable[[str, int, int], None]" in path.read_text(encoding="utf-8")
    ]
    assert defining == ["progress.py"]


def _on_a_terminal(code: str, **environment: str) -> str:
    """Return what a program draws on a terminal, without the control sequences."""
    drawn = _drawn([sys.executable, "-c", code], **environment)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)


def _drawn(command: list[str], **environment: str) -> str:
    ours, theirs = pty.openpty()
    known = {"TERM": "xterm", "COLUMNS": "80", "LINES": "24", "PYTHONUTF8": "0", **environment}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, **known}
    ) as process:
        os.close(theirs)
        drawn = b""
        while chunk := _read(ours):
            drawn += chunk
        assert process.wait() == 0
    os.close(ours)
    return drawn.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux ends a terminal's stream with an error
        return b""
