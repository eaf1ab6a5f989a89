"""`moir-edge chat` in a pseudo-terminal: images by path, streaming, the router's switch, its map, interrupts."""

from __future__ import annotations

import codecs
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROMPT = "> "
SECONDS = 120  # for one answer, imports and loading included, on a busy machine


class Terminal:
    """A chat that runs in a pseudo-terminal, and what it has shown so far."""

    def __init__(self, *words: str | Path) -> None:
        self._own, theirs = pty.openpty()
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end inside a letter
        environment = {**os.environ, "TERM": "dumb", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moir_edge", "chat", *map(str, words)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        os.close(theirs)

    def type(self, text: str) -> None:
        os.write(self._own, text.encode())

    def until(self, pattern: str) -> str:
        """Return what is shown up to a pattern, line ends as ``\\n``."""
        drawn, end = "", time.monotonic() + SECONDS
        while not re.search(pattern, shown := drawn.replace("\r\n", "\n")):
            assert time.monotonic() < end, f"{pattern!r} does not come; shown: {shown!r}"
            piece = self._piece(0.5)
            if piece is None:
                break
            drawn += piece
        return shown

    def interrupt(self) -> None:
        """Press Ctrl-C, again where CPython's `input` missed it because it did not wait for keys yet."""
        shown, end = "", time.monotonic() + SECONDS
        while not shown:
            assert time.monotonic() < end, "nothing is shown after Ctrl-C"
            self.type("\x03")
            piece = self._piece(5)
            assert piece is not None, f"the chat ended with exit code {self.process.wait(SECONDS)}"
            shown = piece
        # CPython sees a Ctrl-C that came at the wrong moment with the next key: let an empty line be that key.
        self.type("\n/seen\n")
        assert "Traceback" not in self.until(rf"no command '/seen'[^\n]*\n{PROMPT}$")

    def _piece(self, seconds: float) -> str | None:
        """Return what comes next: nothing after some seconds, None at the end of the terminal."""
        if not select.select([self._own], [], [], seconds)[0]:
            return ""
        try:
            return self._decoder.decode(os.read(self._own, 4096))
        except OSError:  # Linux's word for the end of a terminal
            return None

    def say(self, line: str) -> str:
        """Type a line and return what is shown up to the next prompt."""
        self.type(f"{line}\n")
        return self.until(rf"\n{PROMPT}$")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._own)


def take_terminal() -> None:
    """Make the terminal of standard input the one that Ctrl-C comes from, and heed it: a shell's background jobs do not."""
    import fcntl
    import termios

    signal.signal(signal.SIGINT, signal.SIG_DFL)

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal(demo_bundle: Path) -> Iterator[Terminal]:
    found = Terminal(demo_bundle)
    found.until(rf"(^|\n){PROMPT}$")
    yield found
    found.close()


def test_a_conversation(terminal: Terminal, demo_image: Path, demo_bundle: Path) -> None:
    assert "1 image for the next message" in terminal.say(f"/image {demo_image}")
    first = terminal.say("How many digits are there ?")
    assert "router on" in first
    expected = subprocess.run(
        [
            *(sys.executable, "-m", "moir_edge", "run", demo_bundle, "-i", demo_image),
            *("-p", "How many digits are there ?", "--json"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"\n{json.loads(expected.stdout)['text']}\n" in first
    shown = terminal.say("/map")
    assert "cells enriched" in shown
    assert "←" in shown
    terminal.say("/router off")
    assert "router off" in terminal.say("And now ?")
    assert "error: the last answer has no routing map: the router was off" in terminal.say("/map")
    history = terminal.say("/history")
    assert "user: [1 image] How many digits are there ?" in history
    assert history.count("assistant: ") == 2
    terminal.say("/new")
    assert "assistant" not in terminal.say("/history")
    terminal.type("\x04")
    assert terminal.process.wait(SECONDS) == 0


def test_mistakes_and_interrupts_leave_the_chat_going(terminal: Terminal, tmp_path: Path) -> None:
    assert "error: there is no command '/ruter': did you mean '/router'?" in terminal.say("/ruter")
    assert "error: `/router maybe`: expected on or off" in terminal.say("/router maybe")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    assert "error: " in terminal.say(f"/image {broken}")
    assert "error: there is no answer to show a map of" in terminal.say("/map")
    terminal.type("half a line")
    terminal.until("half a line")
    terminal.interrupt()
    assert "/router on|off" in terminal.say("/help")
    terminal.type("/hel\t\n")  # the tab key
    assert "/router on|off" in terminal.until(rf"\n{PROMPT}$")
    terminal.type(f"/image {tmp_path}/bro\t\n")
    assert "broken.png" in terminal.until(rf"\n{PROMPT}$")
    terminal.type("/quit\n")
    assert terminal.process.wait(SECONDS) == 0


def test_a_pipe_gives_one_answer_a_line(demo_bundle: Path, demo_image: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "moir_edge", "chat", demo_bundle, "-i", demo_image, "--json", "-q"],
        input="What size is the green digit?\n\nWhat colour is it?\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["router"] for one in answers] == [True, True]
    # The second prompt holds the first one and its answer.
    assert answers[1]["prompt_tokens"] > answers[0]["prompt_tokens"] + 5
    assert PROMPT not in done.stdout
