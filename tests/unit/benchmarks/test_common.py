"""What the scripts share: arguments, exit codes, files, tables, turns, workers."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.common import (
    Check,
    Result,
    add_count,
    markdown_table,
    new_parser,
    replace_between,
    run,
    run_worker,
    take_turns,
    with_kept_rows,
    write_json,
)
from moir_edge.errors import DataError, EnvironmentProblem, NotFiniteError

ROOT = Path(__file__).parents[3]
SCRIPTS = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__main__")
    for path in (ROOT / "benchmarks").rglob("*.py")
    if "new_parser(" in path.read_text(encoding="utf-8") and path.name != "common.py"
)


def test_the_scripts_are_found() -> None:
    assert {"benchmarks.quantization", "benchmarks.study", "benchmarks.generations"} <= set(SCRIPTS)
    assert len(SCRIPTS) >= 11


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_shows_its_help_from_the_root(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", script, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: python -m {script} " in done.stdout


def test_exit_codes_and_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def code(result: Result, *words: str) -> int:
        return run(new_parser("x", "Doc."), lambda *_: result, words)

    good, bad = Check(name="good", value=1.0, minimum=0.5), Check(name="bad", value=None)
    assert code(Result(text="text", record={"a": 1}, checks=[good])) == 0
    assert capsys.readouterr().out == "text\npassed: good: 1 (at least 0.5)\n"
    target = tmp_path / "new" / "r.json"
    assert (
        code(Result(text="text", record={"a": 1}, checks=[bad]), "--json", "-o", str(target)) == 1
    )
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads(target.read_text()) == {"a": 1}
    assert printed.err == "FAILED: bad: not measured\n"
    assert code(Result(text="", failed=True)) == 1


def test_counts_start_at_one(capsys: pytest.CaptureFixture[str]) -> None:
    parser = new_parser("x", "Doc.")
    add_count(parser, "--rows", 5, "rows")
    assert parser.parse_args([]).rows == 5
    for text in ("0", "-1", "two"):
        with pytest.raises(SystemExit):
            parser.parse_args([f"--rows={text}"])
        assert f"must be at least 1, got {text!r}" in capsys.readouterr().err
    assert isinstance(parser, argparse.ArgumentParser)


def test_json_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "r.json"
    write_json(target, {"a": 1})
    with pytest.raises(NotFiniteError):
        write_json(target, {"a": float("nan")})
    assert json.loads(target.read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_markdown_and_marks(tmp_path: Path) -> None:
    text = markdown_table(("", "b"), [("1", "2"), ("3",)], right=[1])
    assert text.splitlines() == ["| | b |", "|---|---:|", "| 1 | 2 |", "| 3 |"]
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- /a -->\nafter\n")
    for _ in range(2):
        replace_between(page, "<!-- a -->", "<!-- /a -->", text)
    assert page.read_text() == f"before\n<!-- a -->\n{text}\n<!-- /a -->\nafter\n"
    with pytest.raises(DataError, match="has no <!-- b -->"):
        replace_between(page, "<!-- b -->", "<!-- /b -->", "")


def test_rows_that_were_not_measured_now_stay_in_a_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    old = markdown_table(("of", "way", "s"), [("a", "x", "1"), ("b", "x", "2")])
    page.write_text(f"<!-- a -->\n{old}\n<!-- /a -->\n")
    new = [("b", "x", "3"), ("b", "y", "4")]
    found = with_kept_rows(page, "<!-- a -->", "<!-- /a -->", new, (0, 1))
    assert list(map(tuple, found)) == [("a", "x", "1"), *new]
    page.write_text("<!-- a -->\nno table\n<!-- /a -->\n")
    assert with_kept_rows(page, "<!-- a -->", "<!-- /a -->", new, (0, 1)) == new
    with pytest.raises(DataError, match="has no <!-- b -->"):
        with_kept_rows(page, "<!-- b -->", "<!-- /b -->", new, (0,))


def test_the_starting_candidate_rotates() -> None:
    order: list[str] = []

    def call(name: str) -> int:
        order.append(name)
        return len(order)

    found = take_turns(
        {name: (lambda name=name: call(name)) for name in "ab"},  # type: ignore[misc]
        rounds=2,
        warm_up=1,
    )
    assert "".join(order) == "abbaab"
    assert found == {"a": [4, 5], "b": [3, 6]}


def test_a_worker_gives_its_last_line_or_its_error(tmp_path: Path) -> None:
    with pytest.raises(
        EnvironmentProblem, match=r"nowhere\.at_all ended with exit code 1: .*nowhere"
    ):
        run_worker("nowhere.at_all")


def test_a_worker_is_found_from_a_checkout_that_is_not_on_the_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As under pytest from the project's folder, which is left out of the worker's path as the current one."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if Path(entry) != ROOT])
    with pytest.raises(EnvironmentProblem, match="ended with exit code 2: error: no folder to"):
        run_worker("benchmarks.study")


def test_a_cell_is_text_in_one_row() -> None:
    table = markdown_table(("a", "b"), [("x | y\nz", "<script>\x1b")])
    assert table.splitlines()[2:] == [r"| x \| y\nz | &lt;script>\x1b |"]


def test_a_reader_that_goes_away_changes_nothing() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.study", "--cost"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        told = process.stderr.read().decode()
    assert "Traceback" not in told
    assert process.returncode == 0
