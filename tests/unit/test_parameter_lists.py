"""Functions take few parameters: what belongs together is passed as one value."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHORT = ("moir_edge/export", "moir_edge/calibration", "moir_edge/evaluation")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(folder: str) -> Iterator[tuple[str, Function]]:
    """Give every function below a folder with its place."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, Function):
                yield f"{path.relative_to(ROOT).as_posix()}: {node.name}", node


def _parameters(function: Function) -> list[str]:
    """Return the parameters, keywords and ``**options`` included, `self` and `cls` left out."""
    own = function.args
    several = [one for one in (own.vararg, own.kwarg) if one is not None]
    every = [*own.posonlyargs, *own.args, *own.kwonlyargs, *several]
    return [one.arg for one in every if one.arg not in ("self", "cls")]


def _too_long(folder: str, most: int) -> list[str]:
    return [
        f"{place} has {len(_parameters(function))}, at most {most}"
        for place, function in _functions(folder)
        if len(_parameters(function)) > most
        and not place.startswith("moir_edge/cli/")
        and not any("triton" in ast.unparse(one) for one in function.decorator_list)
    ]


@pytest.mark.parametrize("folder", ["moir_edge", "benchmarks"])
def test_no_function_takes_more_than_twelve(folder: str) -> None:
    assert len(list(_functions(folder))) > 100
    assert _too_long(folder, 12) == []


@pytest.mark.parametrize("folder", SHORT)
def test_what_measures_and_exports_takes_no_more_than_eight(folder: str) -> None:
    assert len(list(_functions(folder))) > 30
    assert _too_long(folder, 8) == []


def test_a_long_list_is_found() -> None:
    names = ", ".join(f"a{index}" for index in range(9))
    (function,) = ast.parse(f"def long(self, *, {names}, **rest): ...").body
    assert isinstance(function, Function)
    assert len(_parameters(function)) == 10
