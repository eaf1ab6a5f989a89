"""Parts that all scripts share: arguments, exit codes, files, tables, bounds, turns and workers."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from moir_edge.children import child_environment, module_command
from moir_edge.cli.plain import printable_streams
from moir_edge.errors import DataError, EnvironmentProblem, MoirEdgeError, one_line
from moir_edge.finite import json_text
from moir_edge.printable import single_line
from moir_edge.progress import Progress
from moir_edge.whole_files import write_whole

if TYPE_CHECKING:
    from moir_edge.evaluation.comparison.schema import CandidateReport

__all__ = [
    "AGREEMENT_HEAD",
    "Check",
    "Result",
    "add_count",
    "agreement_cells",
    "agreement_record",
    "markdown_table",
    "new_parser",
    "replace_between",
    "run",
    "run_worker",
    "take_turns",
    "with_kept_rows",
    "write_json",
]

T = TypeVar("T")

AGREEMENT_HEAD = ("recovery", "same tokens", "router indices", "matched-token cosine")
"""Heads of the columns that `agreement_cells` fills."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A figure and its bounds; without a bound it only has to be measured."""

    name: str
    value: float | None
    minimum: float | None = None
    maximum: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the figure was measured and keeps its bounds."""
        if self.value is None:
            return False
        above = self.minimum is None or self.value >= self.minimum
        return above and (self.maximum is None or self.value <= self.maximum)

    def sentence(self) -> str:
        """Return the check as one line for people."""
        value = "not measured" if self.value is None else f"{self.value:.6g}"
        bound = f" (at least {self.minimum:g})" if self.minimum is not None else ""
        bound += f" (at most {self.maximum:g})" if self.maximum is not None else ""
        return f"{'passed' if self.passed else 'FAILED'}: {self.name}: {value}{bound}"

    def record(self) -> dict[str, Any]:
        """Return the check as plain JSON data."""
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True, kw_only=True)
class Result:
    """Result of a script.

    Attributes:
        text: Shown to people, normally a table.
        record: The same as plain JSON data; None where nothing was measured.
        checks: Bounds; one that is missed makes the exit code 1.
        failed: Whether the exit code is 1 whatever the checks say.
    """

    text: str
    record: Any = None
    checks: Sequence[Check] = ()
    failed: bool = False


def new_parser(name: str, doc: str | None, *, writes_json: bool = True) -> argparse.ArgumentParser:
    """Return the parser of a script, with the options that every script has.

    Args:
        name: Of the module in `benchmarks`.
        doc: The module's docstring, which `--help` shows.
        writes_json: Add `-o` and `--json`; False for a script that writes something other than figures.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    parser.set_defaults(output=None, json=False)
    if writes_json:
        parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write JSON here")
        parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    return parser


def add_count(
    parser: argparse.ArgumentParser, flag: str, default: int | None, description: str
) -> None:
    """Add an option that takes a whole number from 1.

    Args:
        parser: From `new_parser`.
        flag: Such as ``--rows``.
        default: Shown in the help; None leaves it to the description.
        description: What is counted.
    """
    shown = description if default is None else f"{description} (default: {default})"
    parser.add_argument(flag, type=_count, default=default, metavar="N", help=shown)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text!r}")
    return int(text)


@printable_streams()
def run(
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace, Progress], Result],
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse the arguments, measure, write and print.

    Args:
        parser: From `new_parser`.
        measure: Does the work; called as ``measure(options, progress)``.
        arguments: The words after the command; those of the process by default.

    Returns:
        The exit code: 0 done and all bounds kept, 1 a bound missed, 2 an error, which is printed in one line.
    """
    from moir_edge.__main__ import let_readers_go
    from moir_edge.cli.progress import show_progress

    if arguments is None:
        let_readers_go()
    options = parser.parse_args(arguments)
    try:
        with show_progress(parser.prog.rpartition(".")[2], quiet=options.quiet) as progress:
            result = measure(options, progress)
        if options.output is not None and result.record is not None:
            write_json(options.output, result.record)
    except (MoirEdgeError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)  # noqa: T201
        return 2
    _show(result, as_json=options.json)
    return int(result.failed or not all(check.passed for check in result.checks))


def _show(result: Result, *, as_json: bool) -> None:
    """Print text and checks; with JSON on standard output, missed checks go to standard error."""
    as_json = as_json and result.record is not None
    text = json_text(result.record, indent=1) if as_json else result.text
    if text:
        print(text)  # noqa: T201
    for check in result.checks:
        if not (as_json and check.passed):
            print(check.sentence(), file=sys.stderr if as_json else sys.stdout)


def write_json(path: Path, record: Any) -> None:
    """Write a JSON file, whole or not at all; missing folders are made.

    Raises:
        NotFiniteError: A number is NaN or infinite.
    """
    write_whole(path, json_text(record, indent=1) + "\n")


def markdown_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()
) -> str:
    """Return a Markdown table.

    Args:
        head: Names of the columns.
        rows: Cells; a short row leaves the last columns out. Bars and tags in them are shown as they are.
        right: Columns that are aligned to the right.
    """
    aligned = set(right)
    rule = "|".join("---:" if at in aligned else "---" for at in range(len(head)))
    return "\n".join([_table_line(head), f"|{rule}|", *map(_table_line, rows)])


def _table_line(cells: Sequence[str]) -> str:
    shown = (single_line(cell).replace("|", r"\|").replace("<", "&lt;") for cell in cells)
    return "".join(f"| {cell} " if cell else "| " for cell in shown) + "|"


def replace_between(page: Path, first: str, last: str, text: str) -> None:
    """Replace what stands between two lines of a page.

    Args:
        page: The file.
        first: The line before, normally an HTML comment.
        last: The line after.
        text: What stands between them from now on.

    Raises:
        DataError: The page lacks one of the lines.
    """
    before, _, after = _parts(page, first, last)
    write_whole(page, f"{before}{first}\n{text}\n{last}{after}")


def with_kept_rows(
    page: Path, first: str, last: str, rows: Sequence[Sequence[str]], key: Sequence[int]
) -> list[Sequence[str]]:
    """Return the rows of the table between two lines of a page, with some of them new.

    Args:
        page: The file.
        first: The line before the table.
        last: The line after.
        rows: Cells of the new rows, each of which replaces the old one that it agrees with in the columns of `key`.
        key: Places of columns.

    Raises:
        DataError: The page lacks one of the lines.
    """
    lines = _parts(page, first, last)[1].strip().splitlines()
    old = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return list({tuple(row[at] for at in key): row for row in (*old, *rows)}.values())


def _parts(page: Path, first: str, last: str) -> tuple[str, str, str]:
    """Return what stands before, between and after two lines of a page."""
    content = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, found, rest = content.partition(first)
    between, closed, after = rest.partition(last)
    if not found or not closed:
        raise DataError(f"{page} has no {first} … {last} to write the tables between")
    return before, between, after


def agreement_record(candidate: CandidateReport) -> dict[str, Any]:
    """Return how a candidate of `compare` keeps to the reference, as plain JSON data; None where not measured."""
    found = (candidate.recovery, candidate.token_agreement, candidate.routing)
    names = ("recovery", "token_agreement", "routing")
    return {
        name: None if one is None else one.model_dump(mode="json")
        for name, one in zip(names, found, strict=True)
    }


def agreement_cells(record: Mapping[str, Any]) -> list[str]:
    """Return the cells under `AGREEMENT_HEAD`, shares in %.

    Args:
        record: Holds what `agreement_record` gives.
    """
    recovery, tokens, routing = (
        record[name] for name in ("recovery", "token_agreement", "routing")
    )
    value, low, high = (100 * recovery[name] for name in ("value", "low", "high"))
    return [
        f"{value:.1f} % ({low:.1f}–{high:.1f})",
        f"{100 * tokens['identical']:.1f} %",
        "–" if routing is None else f"{100 * routing['index_agreement']:.2f} %",
        "–" if routing is None else f"{routing['matched_cosine']:.4f}",
    ]


def take_turns(
    calls: Mapping[str, Callable[[], T]], *, rounds: int, warm_up: int
) -> dict[str, list[T]]:
    """Call all candidates in turn; the starting candidate rotates from round to round.

    Args:
        calls: Candidate to a call that measures it once.
        rounds: Calls of each that count.
        warm_up: Calls of each before, which do not.

    Returns:
        Candidate to its results, in order.
    """
    samples: dict[str, list[T]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(warm_up + rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            taken = calls[name]()
            if turn >= warm_up:
                samples[name].append(taken)
    return samples


def run_worker(
    module: str,
    *arguments: str,
    python: str = sys.executable,
    variables: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run a module in a process of its own and return the JSON object on the last line of its output.

    Args:
        module: Full name of the module.
        arguments: Its words.
        python: The interpreter.
        variables: Of the environment, besides this process's own.

    Raises:
        EnvironmentProblem: The process failed; the message has the last line it wrote.
    """
    root = Path(__file__).resolve().parents[1]
    environment = child_environment(variables)
    # What stands in the command is not inherited; a process that the worker starts finds the scripts by this.
    path = os.pathsep.join(filter(None, [str(root), environment.get("PYTHONPATH")]))
    done = subprocess.run(
        module_command(module, *arguments, python=python, root=root),
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1][:300]
        raise EnvironmentProblem(f"{module} ended with exit code {done.returncode}: {last}")
    record: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return record
