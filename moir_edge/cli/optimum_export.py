"""`optimum-cli export moir-edge`: the flags of `moir-edge export`, taken from that command and handed on to it."""

from __future__ import annotations

import sys
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Iterable
from typing import Any

import typer
from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

__all__ = ["MoirEdgeExportCommand", "command_parameters", "words_of"]


class MoirEdgeExportCommand(BaseOptimumCLICommand):  # type: ignore[misc]  # optimum is untyped
    """The command as optimum wants it; argparse sees what typer declares, and typer checks the values."""

    COMMAND = CommandInfo(
        name="moir-edge",
        help="Export a vision-language model, with or without a router, to a moir-edge bundle.",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the flags of `moir-edge export`."""
        for parameter in command_parameters():
            _declare(parser, parameter)

    def run(self) -> None:
        """Run `moir-edge export`; an error is its one line, and its exit code."""
        from moir_edge.cli.main import main

        code = main(["export", *words_of(self.args, command_parameters())])
        if code:
            sys.exit(code)


def command_parameters() -> list[Any]:
    """Return the parameters of `moir-edge export` as click objects, `--help` left out."""
    from moir_edge.cli import export

    app = typer.Typer(add_completion=False)
    export.register(app)
    return [one for one in typer.main.get_command(app).params if one.name != "help"]


def words_of(arguments: Namespace, parameters: Iterable[Any]) -> list[str]:
    """Return the words after `moir-edge export` that say the same as parsed arguments.

    Args:
        arguments: From a parser that `MoirEdgeExportCommand.parse_args` has filled.
        parameters: From `command_parameters`.
    """
    options: list[str] = []
    positional: list[str] = []
    for parameter in parameters:
        value = getattr(arguments, parameter.name, None)
        if value is None:
            continue
        if parameter.param_type_name == "argument":
            positional.append(value)
        elif isinstance(value, bool):
            options.append((parameter.opts if value else parameter.secondary_opts)[-1])
        else:
            for one in value if isinstance(value, list) else [value]:
                options.append(f"{parameter.opts[-1]}={one}")
    return [*options, "--", *positional]


def _declare(parser: ArgumentParser, parameter: Any) -> None:
    """Add one click parameter; values stay text, since the command behind checks them."""
    text = (parameter.help or "").replace("%", "%%")
    if parameter.param_type_name == "argument":
        parser.add_argument(parameter.name, help=text, metavar=parameter.name.upper())
        return
    # A flag that is not given is left to the command's own default.
    shared: dict[str, Any] = {"dest": parameter.name, "help": text, "default": SUPPRESS}
    if parameter.is_flag:
        parser.add_argument(*parameter.opts, action="store_true", **shared)
        if parameter.secondary_opts:
            parser.add_argument(*parameter.secondary_opts, action="store_false", **shared)
        return
    action = "append" if parameter.multiple else "store"
    parser.add_argument(*parameter.opts, action=action, required=parameter.required, **shared)
