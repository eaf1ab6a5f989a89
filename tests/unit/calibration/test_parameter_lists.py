"""Functions of calibration and of the graphs take at most eight parameters; what travels together is an object."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[3] / "moir_edge"
MOST = 8


@pytest.mark.parametrize("folder", ["calibration", "graphs"])
def test_no_parameter_list_is_long(folder: str) -> None:
    functions = [
        (path, node)
        for path in sorted((PACKAGE / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert len(functions) > 10
    for path, node in functions:
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        names = [one.arg for one in given if one.arg not in ("self", "cls")]
        assert len(names) <= MOST, f"{path}:{node.lineno} {node.name} takes {', '.join(names)}"
