"""The `moir-edge` entry point: gathers the commands, and turns every error into one line and an exit code.

Exit codes: 0 done, 1 a gate failed, 2 usage or environment, 130 interrupted. `moir_edge.__main__` has what belongs to a process of its own.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from moir_edge.cli.compiler_folder import own_compiler_folder
from moir_edge.cli.finite_options import App
from moir_edge.cli.plain import printable_streams
from moir_edge.cli.terminal import say
from moir_edge.errors import EnvironmentProblem, MoirEdgeError, one_line
from moir_edge.exhaustion import cannot_start_threads, exhaustion, memory_for_libraries
from moir_edge.invocation import invoked_as

__all__ = ["COMMANDS", "build_app", "main"]

COMMANDS = (
    "retrofit",
    "tune",
    "diagnose",
    "export",
    "build",
    "run",
    "chat",
    "serve",
    "bench",
    "compare",
    "inspect",
    "targets",
    "doctor",
    "demo",
)

_WITH_TORCH = {"retrofit", "tune", "export", "demo"}
USAGE_ERROR = 2
INTERRUPTED = 130


class _Carried(Exception):  # noqa: N818 (not an error of its own)
    """Brings an exception past typer, which makes exit codes and blank lines of its own from some."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Commands(TyperGroup):
    """The group of all commands."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, EOFError, OSError) as error:
            raise _Carried(error) from error


def build_app() -> typer.Typer:
    """Return the application with every command of `COMMANDS` registered."""
    app = App(
        name="moir-edge",
        cls=_Commands,
        help="Export, quantize, run and compare vision-language models with a multi-modal "
        "information router on edge devices.",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name in COMMANDS:
        _register(app, name)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: The words after `moir-edge`; those of the process by default.
    """
    with printable_streams():
        return _run(list(sys.argv[1:] if arguments is None else arguments))


def _run(words: list[str]) -> int:
    try:
        if not {"--help", "-h"} & set(words):
            memory_for_libraries(torch=bool(_WITH_TORCH & set(words[:2])))
        with invoked_as("moir-edge", words), own_compiler_folder(words):
            result = build_app()(args=words, prog_name="moir-edge", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except TyperException as error:
        return _report_usage(error, words)
    except _Carried as carried:
        return _report(carried.error, words)
    except (Exception, KeyboardInterrupt) as error:
        return _report(error, words)


def _print_version(wanted: bool) -> None:
    if wanted:
        from moir_edge.version import __version__

        typer.echo(__version__)
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Show the traceback of an error.")
    ] = False,
) -> None:
    del version, verbose  # the one is eager; `main`, which sees the exception, reads the other


def _register(app: typer.Typer, name: str) -> None:
    """Add a command; one whose module does not import stays in `--help` with the reason."""
    try:
        module = importlib.import_module(f"moir_edge.cli.{name}")
    except ImportError as error:
        reason = str(error)

        @app.command(name, help=f"(unavailable: {reason})")
        def unavailable() -> None:
            raise EnvironmentProblem(f"`moir-edge {name}` cannot start: {reason}")

        return
    module.register(app)


def _report_usage(error: TyperException, words: list[str]) -> int:
    """Print a usage error; without arguments, print the help text unchanged."""
    text = error.format_message()
    if not words:
        for line in text.splitlines():
            say(line, err=True)
        return USAGE_ERROR
    text = one_line(text)
    stop = "" if text.endswith((".", "?")) else "."
    say(f"error: {text}{stop} See --help.", err=True)
    return USAGE_ERROR


def _report(error: BaseException, words: list[str]) -> int:
    """Print an error as one line, and return the exit code."""
    interrupted = isinstance(error, KeyboardInterrupt)
    ran_out = cannot_start_threads() if interrupted else exhaustion(error)
    if "-v" in words or "--verbose" in words:
        with suppress(MemoryError):
            traceback.print_exception(error)
    if ran_out is None:
        return _report_one(error, words)
    _let_go(error)
    with suppress(MemoryError):
        ran_out = _in_flags(ran_out, words)
    say(f"error: {ran_out}", err=True)
    return USAGE_ERROR


def _let_go(error: BaseException | None) -> None:
    """Forget the frames of an exception and of those behind it, whose values may hold all the memory there is."""
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _report_one(error: BaseException, words: list[str]) -> int:
    if isinstance(error, KeyboardInterrupt):
        text = "; ".join(["interrupted", *([one_line(error)] if str(error) else [])])
        code = INTERRUPTED
    else:
        text = str(error) if isinstance(error, MoirEdgeError) else _unexpected(error)
        code = USAGE_ERROR
    say(f"error: {_in_flags(text, words)}", err=True)
    return code


def _in_flags(text: str, words: list[str]) -> str:
    """Return a message that names flags where it named fields of the Python API."""
    from moir_edge.cli.field_names import FIELD, flags_by_field, with_flags

    if not FIELD.search(text):
        return text
    commands = getattr(typer.main.get_command(build_app()), "commands", {})
    return with_flags(text, flags_by_field(commands, words))


def _unexpected(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        from moir_edge.environment import missing_package

        return missing_package(error.name)
    return f"{type(error).__name__}: {one_line(error)} (run again with -v before the command for the traceback)"
