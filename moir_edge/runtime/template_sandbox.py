"""The sandbox of chat templates: that of transformers, with a budget for what a template does and makes.

A template is a program of whoever made the checkpoint. Its loops, calls and texts are counted, so that it ends in bounded time and memory;
what it prints within the budget is what transformers prints.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeAlias

from jinja2 import Template, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from moir_edge.limits import TEMPLATE_INTEGER, TEMPLATE_SECONDS, TEMPLATE_WORK

__all__ = ["BoundedSandbox", "TemplateBudgetError", "weight"]

_VALUE = 64  # work of a step, and what a value takes that is not a text
_LONG_NUMBER_BITS = 4096
# A width from an argument, a width of many digits: `%*d`, `%99999d`, `{:{}}`, `{:99999}`.
_WIDE = re.compile(r"%[^A-Za-z%]*\*|\{[^{}]*\{|\d{5}")
# Work on their first argument as it is, without making its text; all others may turn a container into one.
_SHALLOW = frozenset(
    ("length", "count", "first", "last", "default", "d", "list", "map", "select", "reject", "selectattr", "rejectattr",
     "items", "dictsort", "sort", "unique", "reverse", "min", "max", "groupby", "attr", "random", "int", "float", "round")
)  # fmt: skip
# Their result grows with the size of one argument times a number.
_WIDENING = frozenset(
    ("center", "ljust", "rjust", "zfill", "expandtabs", "indent", "batch", "slice", "tojson")
)
_REMOVED_FILTERS = ("pprint", "striptags", "urlize", "wordwrap", "xmlattr", "filesizeformat")


class TemplateBudgetError(TemplateError):
    """A template does or makes more than its budget allows."""


class _Budget:
    """The work that is left to one rendering.

    Args:
        work: Bytes of text and values that it may make, a step counting as one value.
    """

    def __init__(self, work: int) -> None:
        self.work = self.left = work
        self.end = time.thread_time() + TEMPLATE_SECONDS

    def spend(self, work: int) -> None:
        self.left -= work
        if self.left < 0:
            raise TemplateBudgetError(f"it makes more than {self.work:,} bytes in loops and texts")
        if time.thread_time() > self.end:
            raise TemplateBudgetError(f"it computes for more than {TEMPLATE_SECONDS} s")


_budget: ContextVar[_Budget | None] = ContextVar("template budget", default=None)


def _spend(work: int) -> None:
    budget = _budget.get()
    if budget is not None:  # None while a template is compiled, when constants are folded
        budget.spend(work)


def _most() -> int:
    budget = _budget.get()
    return TEMPLATE_WORK if budget is None else budget.left


def weight(value: Any, most: int) -> int:
    """Return about how many bytes the text of a value takes; a container counts with all that it holds, once for each place.

    Args:
        value: Whatever a template handles.
        most: Where counting ends: a list that holds itself has no size.
    """
    total, waiting = 0, [value]
    while waiting and total <= most:
        one = waiting.pop()
        if isinstance(one, str | bytes):
            total += len(one)
            continue
        total += _VALUE
        if isinstance(one, Mapping):
            waiting += one.keys()
            waiting += one.values()
        elif isinstance(one, list | tuple | set | frozenset):
            waiting += one
        elif isinstance(one, range):
            total += _VALUE * len(one)
    return total


def _size(value: Any) -> int:
    """Return about how many bytes a value takes itself, without what it refers to."""
    if isinstance(value, str | bytes):
        return _VALUE + len(value)
    if isinstance(value, list | tuple | set | frozenset | Mapping):
        return _VALUE + _VALUE * len(value)
    return _VALUE


def _check_integers(values: Iterable[Any]) -> int:
    """Return the largest whole number among values, 1 at least; refuse one that is a width of mischief."""
    largest = 1
    for value in values:
        if isinstance(value, int) and not isinstance(value, bool):
            largest = max(largest, abs(value))
    if largest > TEMPLATE_INTEGER:
        raise TemplateBudgetError(
            f"it gives the number {largest:.6g}, and widths end at {TEMPLATE_INTEGER:,}"
        )
    return largest


def _check_operation(name: str, values: list[Any]) -> None:
    """Refuse, before it is done, an operation whose result would be beyond the budget.

    Args:
        name: Of a filter, a method or a function.
        values: What it is applied to, and its arguments.
    """
    most = _most()
    size = sum(weight(value, most) for value in values)
    _spend(size // 8)
    if name == "format":
        _check_format(values)
    elif name == "replace" and len(values) > 2 and all(isinstance(one, str) for one in values[:3]):
        size += values[0].count(values[1]) * len(values[2])
    elif name == "join":
        places = max((len(one) for one in values if isinstance(one, str | list | tuple)), default=1)
        size += places * max((len(one) for one in values if isinstance(one, str)), default=1)
    elif name in _WIDENING:
        size *= _check_integers(values)
    if size > most:
        raise TemplateBudgetError(f"{name} would make {size:,} bytes")


def _check_fits(name: str, size: int, most: int) -> None:
    if size > most:
        raise TemplateBudgetError(f"{name} would make {size:,} bytes")


def _check_format(values: Iterable[Any]) -> None:
    _check_integers(values)
    if any(isinstance(value, str) and _WIDE.search(value) for value in values):
        raise TemplateBudgetError(
            "it formats with a width of five digits, or with one from an argument"
        )


class BoundedSandbox(ImmutableSandboxedEnvironment):
    """An immutable sandbox in which every loop, call, filter, operator and output spends from a budget."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, finalize=self._output)
        self.filters["tojson"] = _to_json
        self.globals.pop("lipsum")
        for name in _REMOVED_FILTERS:
            self.filters.pop(name, None)
        for name, function in self.filters.items():
            self.filters[name] = _bounded(name, function)

    def template(self, source: str) -> Template:
        """Compile a template whose loops and macros spend from the budget.

        Raises:
            TemplateError: It is not valid.
        """
        tree = _Counting(self).visit(self.parse(source))
        return Template.from_code(self, self.compile(tree), self.make_globals(None))

    def pieces(self, template: Template, values: Mapping[str, Any], work: int) -> Iterator[str]:
        """Render within a budget, piece by piece.

        Args:
            template: From `template`.
            values: Its variables.
            work: Bytes that it may make.

        Raises:
            TemplateBudgetError: It makes more.
        """
        token = _budget.set(_Budget(work))
        try:
            yield from template.generate(values)
        finally:
            _budget.reset(token)

    def tick(self, work: int) -> str:
        """Spend; the first thing in the body of each loop and macro."""
        _spend(work)
        return ""

    def concatenate(self, *values: Any) -> str:
        """Do what ``~`` does."""
        _check_operation("~", list(values))
        return str(_made("".join(map(str, values))))

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function or method, its arguments and result counted."""
        if getattr(obj, "__func__", None) in _OWN:
            return obj(*args)
        owner = getattr(obj, "__self__", None)
        name = getattr(obj, "__name__", "")
        if isinstance(owner, str) or obj in self.globals.values():
            if name == "translate":
                raise TemplateBudgetError("it calls translate, which chat templates may not")
            args = tuple(_listed(value) for value in args)
            _check_operation(name, [owner, *args, *kwargs.values()])
        return _made(super().call(context, obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., Any] | None:
        """Return the safe form of a text's method ``format``, with its widths checked; None for anything else."""
        safe = super().wrap_str_format(value)
        return None if safe is None else _formatting(value.__self__, safe)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator whose result may be much larger than its operands."""
        most = _most()
        if operator == "%" and isinstance(left, str | bytes):
            _check_format((left, *(right if isinstance(right, tuple) else (right,))))
            _check_fits("%", weight((left, right), most), most)
        elif operator == "**":
            _check_power(left, right)
        elif operator == "*":
            _check_product(left, right, most)
        elif isinstance(left, str | list | tuple):
            _check_fits(operator, _size(left) + _size(right), most)
        return _made(super().call_binop(context, operator, left, right))

    def _output(self, value: Any) -> Any:
        most = _most()
        size = weight(value, most)
        _check_fits("an output", size, most)
        _spend(size)
        return value


_OWN = (BoundedSandbox.tick, BoundedSandbox.concatenate)


def _formatting(text: str, safe: Callable[..., str]) -> Callable[..., str]:
    def run(*args: Any, **kwargs: Any) -> str:
        _check_operation("format", [text, *args, *kwargs.values()])
        return str(_made(safe(*args, **kwargs)))

    return run


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    if name in _SHALLOW:

        @functools.wraps(function)
        def pick(*args: Any, **kwargs: Any) -> Any:
            return _made(function(*args, **kwargs))

        return pick

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        listed = [_listed(value) for value in args]
        _check_operation(name, [*listed, *kwargs.values()])
        return _made(function(*listed, **kwargs))

    return run


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON as transformers does: letters stay letters, and nothing is escaped for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _listed(value: Any) -> Any:
    """Return an iterator, as ``map`` gives one, as the list of what it yields; anything else as it is."""
    if not isinstance(value, Iterator):
        return value
    found = []
    for one in value:
        _spend(_size(one))
        found.append(one)
    return found


def _made(value: Any) -> Any:
    _spend(_size(value))
    return value


def _check_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() * max(right, 1))


def _check_product(left: Any, right: Any, most: int) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
        return
    for text, times in ((left, right), (right, left)):
        if isinstance(text, str | bytes | list | tuple) and isinstance(times, int):
            _check_fits("*", _size(text) * max(times, 1), most)


def _check_bits(bits: int) -> None:
    if bits > _LONG_NUMBER_BITS:
        raise TemplateBudgetError(f"it computes a number of {bits:,} bits")


_Repeated: TypeAlias = "nodes.For | nodes.Macro | nodes.CallBlock"


class _Counting(NodeTransformer):
    """Puts a call of `tick` into every body that may run more than once, and a countable call in place of ``~``."""

    def __init__(self, environment: BoundedSandbox) -> None:
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 (jinja's names)
        return self._counted(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        return self._counted(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        return self._counted(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._call("concatenate", list(node.nodes), node.lineno)

    def _counted(self, node: _Repeated) -> nodes.Node:
        self.generic_visit(node)
        inner = [one for part in node.body for one in (part, *part.find_all(nodes.Node))]
        texts = sum(len(one.data) for one in inner if isinstance(one, nodes.TemplateData))
        work = nodes.Const(_VALUE * (1 + len(inner)) + texts, lineno=node.lineno)
        tick = nodes.ExprStmt(self._call("tick", [work], node.lineno), lineno=node.lineno)
        tick.set_environment(self._environment)
        node.body.insert(0, tick)
        return node

    def _call(self, name: str, args: list[Any], line: int) -> nodes.Call:
        function = nodes.EnvironmentAttribute(name, lineno=line)
        call = nodes.Call(function, args, [], None, None, lineno=line)
        call.set_environment(self._environment)
        return call
