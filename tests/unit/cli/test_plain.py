"""A terminal without a letter gets a plain spelling, in every command, and what steers a terminal never reaches it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import subprocess
import sys

import pytest

from moir_edge.cli.plain import printable_streams
from moir_edge.cli.terminal import print_json


@pytest.mark.parametrize(
    ("encoding", "text", "printed"),
    [
        ("ascii", "1 – 2 ≤ 3 × é → ✓ 漢", b"1 - 2 <= 3 x e -> yes ?"),
        ("cp1252", "1 – 2 ≤ 3 × é → ✓ 漢", b"1 \x96 2 <= 3 \xd7 \xe9 -> yes ?"),
        ("utf-8", "≤ 漢", "≤ 漢".encode()),
    ],
)
def test_a_letter_that_is_missing_is_spelled(
    encoding: str, text: str, printed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_ = io.BytesIO()
    stream = io.TextIOWrapper(bytes_, encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    with printable_streams():
        stream.write(text)
        stream.flush()
    assert bytes_.getvalue() == printed
    assert stream.errors == "strict"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("words", [["targets"], ["export", "--help"], ["run", "ünï→漢", "-p", "x"]])
def test_no_command_fails_for_an_encoding(words: list[str], encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "moir_edge", *words],
        env={**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "60"},
        capture_output=True,
        check=False,
    )
    assert b"Unicode" not in done.stderr
    assert done.returncode == (2 if words[0] == "run" else 0)
    assert done.stdout or done.stderr.splitlines()[-1].startswith(b"error: ")


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\rfine\u202e\x00 [red]漢"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b31m\x0dfine\u202e\x00 [red]漢"


_PRINTING = f"""
import logging, sys, traceback, warnings
from moir_edge.cli.plain import printable_streams
from moir_edge.cli.terminal import say, table_console
with printable_streams():
    print({HOSTILE!r})
    say("two\\nlines\\t" + {HOSTILE!r})
    table_console().print({HOSTILE!r})
    logging.getLogger("some.package").warning("cannot read %s", {HOSTILE!r})
    sys.stderr.writelines([{HOSTILE!r}, "\\n"])
    warnings.warn({HOSTILE!r})
    try:
        raise ValueError({HOSTILE!r})
    except ValueError as error:
        traceback.print_exception(error)
"""


def test_whatever_is_printed_is_spelled() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PRINTING],
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        check=True,
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert out.splitlines() == [SHOWN, rf"two\nlines\t{SHOWN}", SHOWN]
    lines = err.splitlines()
    assert lines[:2] == [f"cannot read {SHOWN}", SHOWN]
    assert lines[2].endswith(f"Warning: {SHOWN}")
    assert lines[-1] == f"ValueError: {SHOWN}"
    assert not any(one in out + err for one in "\x1b\x9b\r\x00\u202e")


def test_the_streams_come_back() -> None:
    before = sys.stdout, sys.stderr
    with printable_streams():
        guarded = sys.stdout
        with printable_streams():
            assert sys.stdout is guarded
        assert sys.stdout is guarded
        assert sys.stdout.encoding == before[0].encoding
        assert sys.stdout.isatty() == before[0].isatty()
    assert (sys.stdout, sys.stderr) == before


def test_json_of_any_text_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    with printable_streams():
        print_json({"text": HOSTILE})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"text": HOSTILE}
    assert printed.replace("\n", "").isprintable()


PIECES = ["\x1b", "[2", "Jan answer\r", "\n漢", "\u202e"]
_ANSWER = f"""
import sys
from moir_edge.cli.plain import printable_streams
from moir_edge.cli.terminal import print_piece
with printable_streams():
    for piece in {PIECES!r}:
        print_piece(piece)
"""


def test_an_answer_is_spelled_on_a_terminal_and_exact_in_a_pipe() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "TERM": "xterm"}
    command = [sys.executable, "-c", _ANSWER]
    piped = subprocess.run(command, env=environment, capture_output=True, check=True).stdout
    assert piped.decode() == "".join(PIECES)
    assert on_a_terminal(command, environment) == "\\x1b[2Jan answer\\x0d\r\n漢\\u202e"


_DRAWING = f"""
import logging, sys, time
from moir_edge.cli.plain import printable_streams
from moir_edge.cli.progress import show_progress
from moir_edge.cli.terminal import new_console
with printable_streams():
    with show_progress("run") as progress:
        progress({HOSTILE!r}, 0, 2)
        logging.warning("%s", {HOSTILE!r})
        time.sleep(1.1)
        progress({HOSTILE!r}, 2, 2)
    new_console().print({HOSTILE!r}, style="bold red")
    sys.stderr.write("\\r 50 % of a bar\\x1b[2J")
    sys.stderr.write("\\n\\x1b[A")
"""


def test_bars_and_colours_of_ours_are_drawn_and_no_others() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "TERM": "xterm", "COLUMNS": "150"}
    drawn = on_a_terminal([sys.executable, "-c", _DRAWING], environment)
    assert f"\x1b[1;31m{SHOWN}\x1b[0m" in drawn
    assert f"WARNING:root:{SHOWN}" in drawn
    assert re.search(re.escape(f"run: {SHOWN} 2/2 in ") + r"\d+:\d\d", drawn)
    assert drawn.endswith("\r 50 % of a bar\\x1b[2J\r\n\x1b[A")
    assert not any(one in drawn for one in ("\x1b]", "\x1b[2J", "\x9b", "\u202e", "\x00", "\rfine"))


def on_a_terminal(command: list[str], environment: dict[str, str]) -> str:
    """Return all that a program draws on a terminal, control sequences included."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, env=environment, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        drawn = b""
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while part := os.read(ours, 65536):
                drawn += part
        assert process.wait() == 0
    os.close(ours)
    return drawn.decode()


def test_a_closed_standard_error_is_left_alone() -> None:
    """A line for standard error never lands on standard output, as `print` has it where the stream is closed."""
    code = "from moir_edge.cli.main import main; main(['inspect', 'nowhere', '--json'])"
    code += "; from moir_edge.cli.terminal import new_console, say; say('x', err=True); new_console(err=True).print('y')"
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" -c "$1" 2>&-', sys.executable, code],
        stdout=subprocess.PIPE,
        check=True,
    )
    assert done.stdout == b""
