"""Groups of flags: a dataclass declares each flag once, and a command takes the whole group as one parameter."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from typer.models import OptionInfo

__all__ = ["Flags", "Group", "fields_of", "values_of", "with_groups"]


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Base of every group: a subclass has one field per flag, annotated as a command's parameter is.

    Attributes:
        argument: How the Python API names what the flags fill, such as `calibration`; the field `rows` is `calibration.rows`
            there. Empty where the fields are arguments themselves.
    """

    argument: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Use of a group of flags by one command, written as ``Annotated[SomeFlags, Group(…)]``.

    Attributes:
        argument: In place of the group's own.
        names: The fields that the command takes, with the name of its parameter for each; None takes all.
        required: Fields without a default.
        defaults: By field, in place of the group's own.
        help: By field, in place of the group's own.
    """

    argument: str | None = None
    names: Mapping[str, str] | None = None
    required: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    help: Mapping[str, str] = field(default_factory=dict)


class _Member(NamedTuple):
    """One parameter of a command, or one field of a group; `name` is the parameter that typer sees."""

    field: str
    name: str
    hint: Any
    default: Any


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command with one parameter per flag for typer, which hands each group to `command` as one object.

    Flags come in the order in which they are declared, those without a default first, as in any signature.
    """
    flags = [flag for _, flag in _flags_of_command(command)]
    flags.sort(key=lambda flag: flag.default is not inspect.Parameter.empty)

    @functools.wraps(command)
    def run(**values: Any) -> None:
        command(**{member.field: _value(member, values) for member in _members_of_command(command)})

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(flag.name, kind, default=flag.default, annotation=flag.hint)
        for flag in flags
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {flag.name: flag.hint for flag in flags}
    return run


def fields_of(command: Callable[..., Any]) -> dict[str, str]:
    """Return what a command fills in the Python API, such as `calibration.rows`, and its parameter for each."""
    return {path: flag.name for path, flag in _flags_of_command(inspect.unwrap(command))}


def values_of(flags: Flags) -> dict[str, Any]:
    """Return what the flags of a group say, by field; None is left out."""
    own = {one.name: getattr(flags, one.name) for one in fields(flags) if one.name != "argument"}
    return {name: value for name, value in own.items() if value is not None}


def _members_of_command(command: Callable[..., None]) -> Iterator[_Member]:
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        yield _Member(name, name, parameter.annotation, parameter.default)


def _flags_of_command(command: Callable[..., None]) -> Iterator[tuple[str, _Member]]:
    for member in _members_of_command(command):
        yield from _flags(member, "")


def _flags(member: _Member, argument: str) -> Iterator[tuple[str, _Member]]:
    """Give every flag of a member with its path in the API; a group has several."""
    found = _group(member.hint)
    if found is None:
        yield f"{argument}.{member.field}".lstrip("."), member
        return
    for inner in _members(*found):
        yield from _flags(inner, _argument(*found))


def _value(member: _Member, values: Mapping[str, Any]) -> Any:
    """Return what the command gets for a member, from one value per flag."""
    found = _group(member.hint)
    if found is None:
        return values[member.name]
    own = {inner.field: _value(inner, values) for inner in _members(*found)}
    return found[0](argument=_argument(*found), **own)


def _group(hint: Any) -> tuple[type[Flags], Group] | None:
    """Return the group that an annotation names, or None for a flag."""
    kind, group = hint, Group()
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        group = next((note for note in notes if isinstance(note, Group)), group)
    return (kind, group) if isinstance(kind, type) and issubclass(kind, Flags) else None


def _argument(kind: type[Flags], group: Group) -> str:
    return kind.argument if group.argument is None else group.argument


def _members(kind: type[Flags], group: Group) -> Iterator[_Member]:
    """Give the fields of a group that a command takes."""
    hints = get_type_hints(kind, include_extras=True)
    for one in fields(kind):
        if one.name == "argument" or (group.names is not None and one.name not in group.names):
            continue
        hint = hints[one.name]
        if _group(hint) is None:
            hint = _with_help(hint, group.help.get(one.name))
        default = group.defaults.get(one.name, one.default)
        if default is MISSING or one.name in group.required:
            default = inspect.Parameter.empty
        name = _own_name(hint, one.name) if group.names is None else group.names[one.name]
        yield _Member(one.name, name, hint, default)


def _option(hint: Any) -> OptionInfo | None:
    return next((note for note in get_args(hint) if isinstance(note, OptionInfo)), None)


def _own_name(hint: Any, name: str) -> str:
    """Return the parameter's name: that of the option where it declares one, as ``--calib-rows``, else the field's."""
    option = _option(hint)
    if option is None or not isinstance(option.default, str):
        return name
    return option.default.lstrip("-").replace("-", "_")


def _with_help(hint: Any, text: str | None) -> Any:
    option = _option(hint)
    if text is None or option is None:
        return hint
    changed = copy(option)
    changed.help = text
    return Annotated[get_args(hint)[0], changed]
