"""Messages in words of the command line: a field of the Python API, such as `calibration.rows`, becomes its flag.

Errors below `cli` name a field between backticks, with a value where there is one: `force=True`, `settings.int4_method='rtn'`,
`calibration.data=FILE`. Which flag fills which field is read from the declarations of the commands.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Mapping
from typing import Any

from moir_edge.cli.groups import fields_of

__all__ = ["FIELD", "flags_by_field", "with_flags"]

FIELD = re.compile(r"`([a-z][a-z0-9_.]*)(?:=([^`]*))?`")


def with_flags(text: str, flags: Mapping[str, Any]) -> str:
    """Return a message with the flag in place of every field that has one; other words between backticks stay.

    Args:
        text: One line.
        flags: From `flags_by_field`.
    """

    def flag(found: re.Match[str]) -> str:
        option = flags.get(found[1].removeprefix("settings."))
        return found[0] if option is None else _words(option, found[2])

    return FIELD.sub(flag, text)


def flags_by_field(commands: Mapping[str, Any], words: list[str]) -> dict[str, Any]:
    """Return the option of every field; where several commands fill one, that of the command which was called.

    Args:
        commands: Click commands by name.
        words: Of the command line.
    """
    called = [commands[word] for word in words if word in commands][:1]
    found: dict[str, Any] = {}
    for command in (*called, *commands.values()):
        options = {one.name: one for one in command.params if one.param_type_name == "option"}
        for path, name in fields_of(command.callback).items():
            if name in options:
                found.setdefault(path.removeprefix("settings."), options[name])
                found.setdefault(path.removesuffix(".path"), options[name])
    return found


def _words(option: Any, value: str | None) -> str:
    """Return an option with a value, as the user writes it."""
    flag = str(option.opts[0])
    if value in (None, "True"):
        return flag
    if value == "False":
        return str(option.secondary_opts[-1])
    try:
        given = ast.literal_eval(value)
    except (SyntaxError, ValueError):
        given = value  # a placeholder, such as FILE
    if isinstance(given, dict):
        return " ".join(f"{flag} {key}={one}" for key, one in given.items())
    return f"{flag} {shlex.quote(str(given))}"
