"""Imports go down: between packages by the order in docs/architecture.md, and between files without a circle.

Imports inside functions and under TYPE_CHECKING count too: a reader looks for them in vain.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "moir_edge"


def floors(page: str) -> dict[str, int]:
    """Return package or module of `moir_edge` -> its floor, 0 at the bottom."""
    section = page.partition("## Floors")[2].partition("\n## ")[0]
    block = re.findall(r"(?:^ {4}.*\n)+", section, re.M)[0]
    lines = [line.split("  ")[0].split() for line in block.replace("    ", "", 1).split("\n    ")]
    names = [[name.strip(",") for name in line] for line in reversed(lines)]
    return {name: floor for floor, line in enumerate(names) for name in line}


def modules(root: Path, top: str) -> dict[str, Path]:
    """Return every module's dotted name -> its file."""
    found = {}
    for path in sorted((root / top).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """Yield the modules of `known` that a file imports, wherever the statement stands."""
    parent = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parent.split(".")[: len(parent.split(".")) + 1 - node.level])
            base = node.module or "" if not node.level else f"{base}.{node.module or ''}".strip(".")
            wanted = [f"{base}.{alias.name}" for alias in node.names]
            wanted = [one if one in known else base for one in wanted]
        else:
            continue
        yield from (one for one in wanted if one in known and one != name)


def graph(root: Path, top: str) -> dict[str, set[str]]:
    known = modules(root, top)
    return {name: set(imports(name, path, known)) for name, path in known.items()}


def upward(edges: Mapping[str, set[str]], order: Mapping[str, int]) -> list[str]:
    """Return every import that does not go down, and every package that has no floor."""
    wrong = []
    for name, targets in sorted(edges.items()):
        own = _package(name)
        if own not in order:
            wrong.append(f"{name} stands on no floor")
            continue
        for target in sorted(targets):
            other = _package(target)
            if other != own and order.get(other, len(order)) >= order[own]:
                wrong.append(f"{name} -> {target}")
    return wrong


def circle(edges: Mapping[str, set[str]]) -> list[str]:
    """Return the files of one circle, none where there is none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _package(name: str) -> str:
    return name.split(".")[1] if "." in name else name


ORDER = floors((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))


def test_no_import_between_packages_goes_up() -> None:
    assert upward(graph(ROOT, PACKAGE), ORDER) == []


def test_every_floor_of_the_page_exists() -> None:
    known = {_package(name) for name in modules(ROOT, PACKAGE)}
    assert set(ORDER) == known


@pytest.mark.parametrize("top", [PACKAGE, "benchmarks"])
def test_no_files_import_each_other_in_a_circle(top: str) -> None:
    assert circle(graph(ROOT, top)) == []


def test_scripts_are_imported_by_nothing_that_is_installed() -> None:
    for path in modules(ROOT, PACKAGE).values():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in ("benchmarks", "tests"), path


def test_the_checks_see_an_upward_import_and_a_circle(tmp_path: Path) -> None:
    """Also inside a function, under TYPE_CHECKING, and relative."""
    for name, text in {
        "low/__init__.py": "def f():\n    from moir_edge.high import thing\n",
        "high/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..low import f\n",
        "other.py": "",
    }.items():
        file = tmp_path / PACKAGE / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    edges = graph(tmp_path, PACKAGE)
    assert upward(edges, {"low": 0, "high": 1}) == [
        "moir_edge.low -> moir_edge.high",
        "moir_edge.other stands on no floor",
    ]
    assert set(circle(edges)) == {"moir_edge.low", "moir_edge.high"}
