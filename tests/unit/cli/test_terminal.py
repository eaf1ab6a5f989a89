"""A table that does not fit is printed as paragraphs, with nothing lost."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from moir_edge.cli.main import main
from moir_edge.cli.terminal import print_table
from moir_edge.targets import TARGETS, available_precisions


@pytest.mark.parametrize("width", [24, 40, 60, 80, 200])
def test_every_target_and_precision_is_there(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["targets"]) == 0
    words = capsys.readouterr().out.split()
    for target in TARGETS.values():
        assert {target.name, target.builder, *available_precisions(target)} <= set(words)


def test_rows_become_paragraphs_only_where_the_table_does_not_fit() -> None:
    table = Table("component", "file")
    table.add_row("decoder", "a-very-long-word")
    table.add_row("[b]vision", "")
    wide, narrow = io.StringIO(), io.StringIO()
    print_table(table, Console(file=wide, width=40))
    print_table(table, Console(file=narrow, width=20))
    assert "┃ component ┃ file" in wide.getvalue()
    lines = [line.rstrip() for line in narrow.getvalue().splitlines()]
    assert lines == ["decoder", "  file:", "a-very-long-word", "[b]vision"]
