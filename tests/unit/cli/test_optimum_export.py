"""`optimum-cli export moir-edge` takes the flags of `moir-edge export` and hands them on."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from typing import Any

import pytest
import typer
from optimum.commands.base import RootOptimumCLICommand
from optimum.commands.export.base import ExportCommand
from optimum.commands.optimum_cli import register_optimum_cli_subcommand

from moir_edge.cli import export
from moir_edge.cli import main as cli
from moir_edge.cli.optimum_export import MoirEdgeExportCommand, command_parameters, words_of

LINES = [
    ["model", "-o", "out"],
    ["model", "-o", "out", "--no-engines"],
    ["model", "-o", "out", "--engines"],
    ["-o", "out dir", "--force", "--json", "model"],
    ["--output=-strange", "--target", "rtx-40", "--min-snr", "12.5", "org/model"],
    [
        "model",
        "-o",
        "out",
        *("--component-precision", "vision=fp32"),
        *("--component-precision", "decoder=int4"),
        *("--calib-rows", "3", "--smoothquant", "0.7"),
    ],
]


@pytest.fixture
def parser() -> ArgumentParser:
    root = RootOptimumCLICommand("optimum-cli")
    register_optimum_cli_subcommand(ExportCommand, parent_command=root)
    (exports,) = root.registered_subcommands
    register_optimum_cli_subcommand(MoirEdgeExportCommand, parent_command=exports)
    done: ArgumentParser = root.parser
    return done


def _typer_values(words: list[str]) -> dict[str, Any]:
    """What typer itself makes of the words."""
    app = typer.Typer(add_completion=False)
    export.register(app)
    context = typer.main.get_command(app).make_context("export", list(words))
    return dict(context.params)


@pytest.mark.parametrize("words", LINES)
def test_words_mean_the_same_on_either_command_line(
    words: list[str], parser: ArgumentParser
) -> None:
    arguments = parser.parse_args(["export", "moir-edge", *words])
    handed_on = words_of(arguments, command_parameters())
    assert _typer_values(handed_on) == _typer_values(words)


def test_help_has_every_flag_of_the_command(
    parser: ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", "--help"]) == 0
    flags = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["export", "moir-edge", "--help"])
    assert stop.value.code == 0
    assert flags <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


def test_an_error_is_the_commands_own_line_and_code(
    parser: ArgumentParser, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    words = ["export", "moir-edge", "nowhere/at/all", "-o", str(tmp_path / "out")]
    arguments = parser.parse_args([*words, "--target", "rtx-41"])
    with pytest.raises(SystemExit) as stop:
        arguments.func(arguments).run()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: unknown target 'rtx-41'")
