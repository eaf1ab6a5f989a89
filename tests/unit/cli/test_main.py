"""The entry point: fast, lean, one-line errors, exit codes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from moir_edge.cli import main as cli
from moir_edge.errors import DataError

HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "tensorrt_rtx", "pydantic", "numpy", "PIL")


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in cli.COMMANDS)
    assert "unavailable" not in out
    assert "..." not in out.partition("Commands:")[2]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_has_help_and_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


@pytest.mark.parametrize(
    "statement", ["import moir_edge", "import moir_edge.cli.main as m; m.build_app()"]
)
def test_start_up_imports_nothing_heavy(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["exprot"], "error: No such command 'exprot'. Did you mean 'export'? See --help.\n"),
        (["targets", "--nonsense"], "error: No such option: --nonsense. See --help.\n"),
        (["export"], "error: Missing argument 'checkpoint'. See --help.\n"),
    ],
)
def test_wrong_words_are_one_line_and_exit_2(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    assert capsys.readouterr().err == line


def test_no_words_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    captured = capsys.readouterr()
    assert "Commands:" in captured.out + captured.err


def test_deliberate_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise DataError("line one\nline two")

    monkeypatch.setattr(cli, "build_app", lambda: lambda **_: fail())
    assert cli.main(["run"]) == 2
    assert capsys.readouterr().err == "error: line one line two\n"
    assert cli.main(["-v", "run"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("error", [DataError, ValueError])
def test_an_error_is_bounded_and_cannot_steer_the_terminal(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error("\x1b[2J\r\x9b" + "x" * 2_000_000 + "; give another")

    monkeypatch.setattr(cli, "build_app", lambda: lambda **_: fail())
    assert cli.main(["run"]) == 2
    line = capsys.readouterr().err
    assert len(line) < 2_200
    assert r"\x1b[2J \x9bxxx" in line
    assert "; give another" in line
    assert line[:-1].isprintable()


def test_a_wrong_word_is_bounded_and_cannot_steer_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    word = "\x1b[2J\n" + "x" * 100_000
    for words in ([word], ["targets", f"--{word}"], ["bench", "b", "--repeats", word]):
        assert cli.main(words) == 2
        line = capsys.readouterr().err
        assert line.startswith("error: ")
        assert line.endswith(" See --help.\n")
        assert len(line) < 1_000
        assert line[:-1].isprintable()


def test_missing_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(cli, "build_app", lambda: lambda **_: fail())
    assert cli.main(["export"]) == 2
    assert "pip install 'moir-edge[export]'" in capsys.readouterr().err
