"""Groups of flags: each flag is declared once, and a command gets one object per group."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from moir_edge.cli import main as cli
from moir_edge.cli.data_options import DataFlags, data_group
from moir_edge.cli.finite_options import App
from moir_edge.cli.groups import Flags, Group, fields_of, values_of, with_groups

CLI = Path(cli.__file__).parent


@dataclass(frozen=True, kw_only=True)
class _Inner(Flags):
    argument: str = "inner"
    rows: Annotated[int, typer.Option("--inner-rows", help="Rows.")] = 3


@dataclass(frozen=True, kw_only=True)
class _Outer(Flags):
    argument: str = "outer"
    name: Annotated[str, typer.Option(help="Name.")] = "plain"
    inner: _Inner


def _call(words: list[str], group: Any = _Outer) -> tuple[dict[str, Any], Any]:
    seen: dict[str, Any] = {}

    def command(*, first: int = 1, outer: Any, last: Annotated[str, typer.Option()]) -> None:
        seen.update(first=first, outer=outer, last=last)

    command.__annotations__["outer"] = group
    app = App()
    app.command("command")(with_groups(command))
    click = typer.main.get_command(app)
    click(args=words, standalone_mode=False)
    return seen, click


def test_a_command_gets_one_object_per_group() -> None:
    seen, click = _call(["--last", "x", "--name", "given", "--inner-rows", "5"])
    assert seen["outer"] == _Outer(name="given", inner=_Inner(rows=5))
    assert (seen["first"], seen["last"]) == (1, "x")
    # What is required comes first, then all as declared.
    assert [one.name for one in click.params][:4] == ["last", "first", "name", "inner_rows"]


def test_a_command_may_take_some_fields_under_other_names() -> None:
    group = Group(
        argument="other.place",
        names={"name": "its_name"},
        defaults={"name": "own"},
        help={"name": "Its name."},
    )

    @dataclass(frozen=True, kw_only=True)
    class Two(_Inner):
        name: Annotated[str, typer.Option(help="Name.")] = "plain"

    seen, click = _call(["--last", "x"], Annotated[Two, group])
    assert seen["outer"] == Two(argument="other.place", name="own")
    assert [one.help for one in click.params if one.name == "its_name"] == ["Its name."]


def test_fields_of_a_command() -> None:
    def command(*, data: Annotated[DataFlags, data_group("calib", "calibration.data", help={})], outer: _Outer) -> None: ...  # fmt: skip

    command.__annotations__ = {
        "data": Annotated[DataFlags, data_group("calib", "calibration.data", help={})],
        "outer": _Outer,
    }
    fields = fields_of(with_groups(command))
    assert fields["calibration.data.path"] == "calib_data"
    assert fields["calibration.data.columns"] == "calib_column"
    assert (fields["outer.name"], fields["inner.rows"]) == ("name", "inner_rows")


def test_values_leave_out_what_was_not_given() -> None:
    assert values_of(DataFlags(split="train")) == {"split": "train"}


def _options() -> list[ast.Call]:
    calls = []
    for path in sorted(CLI.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "typer.Option":
                calls.append(node)
    return calls


def _texts(values: list[ast.expr]) -> list[str]:
    return [ast.literal_eval(one) for one in values if isinstance(one, ast.Constant | ast.BinOp)]


@pytest.mark.parametrize("part", ["flags", "help"])
def test_every_flag_is_declared_once(part: str) -> None:
    calls = _options()
    assert len(calls) > 60
    if part == "flags":
        texts = [text for call in calls for text in _texts(call.args) if isinstance(text, str)]
    else:
        named = [word.value for call in calls for word in call.keywords if word.arg == "help"]
        texts = _texts(named)
    assert [text for text, times in Counter(texts).items() if times > 1] == []
