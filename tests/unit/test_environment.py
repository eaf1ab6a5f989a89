"""Hints at extras, held to the packages that pyproject.toml gives each extra."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from moir_edge.environment import missing_package, require
from moir_edge.errors import EnvironmentProblem

ROOT = Path(__file__).parents[2]
CODE = ("moir_edge", "benchmarks")
# What needs an extra, and where it is named: code, its docs, and the one-screen guide for contributors.
TEXTS = [
    *(ROOT / "docs").glob("*.md"),
    ROOT / "CONTRIBUTING.md",
    ROOT / "README.md",
    *(path for folder in CODE for path in (ROOT / folder).rglob("*.py")),
]
HINT = re.compile(r"moir-edge\[([a-z,]+)\]")


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def _requirements(name: str, extras: frozenset[str]) -> list[str]:
    """Return what a package requires; moir-edge's own come from pyproject.toml, whatever is installed here."""
    if name != "moir-edge":
        return requires(name) or []
    return [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]


@cache
def brought(package: str, extras: frozenset[str] = frozenset()) -> frozenset[str]:
    """Return the distributions that a requirement brings, with all that those require."""
    found: set[str] = set()
    todo, done = [(package, extras)], set()
    while todo:
        name, wanted = todo.pop()
        if (name, wanted) in done:
            continue
        done.add((name, wanted))
        found.add(name)
        for line in _requirements(name, wanted):
            one = Requirement(line)
            if one.marker is None or any(
                one.marker.evaluate({"extra": extra}) for extra in {"", *wanted}
            ):
                todo.append((canonicalize_name(one.name), frozenset(one.extras)))
    return frozenset(found)


def _imported() -> dict[str, str]:
    """Import name to one file of the package that imports it, lazily or not; third-party ones only."""
    found: dict[str, str] = {}
    for folder in CODE:
        for path in (ROOT / folder).rglob("*.py"):
            if "peers" in path.parts:  # scripts against tools that no extra brings
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                names = [item.name for item in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    names = [node.module]
                for name in names:
                    found.setdefault(name.partition(".")[0], str(path.relative_to(ROOT)))
    ours = {*CODE, *sys.stdlib_module_names}
    return {name: path for name, path in found.items() if name not in ours}


def _brings(extra: str, module: str) -> bool:
    homes = {canonicalize_name(name) for name in packages_distributions().get(module, [])}
    wanted = frozenset({extra} if extra else set())
    return bool(homes & brought("moir-edge", wanted))


@pytest.mark.parametrize("module", sorted(_imported()))
def test_every_import_is_in_the_base_install_or_its_hint_names_an_extra_that_brings_it(
    module: str,
) -> None:
    if _brings("", module):
        return
    extra = HINT.search(missing_package(module))
    assert extra is not None, f"{_imported()[module]} imports {module}: no extra is named for it"
    assert _brings(extra[1], module)


def test_every_extra_that_is_named_exists() -> None:
    named = {
        (str(path.relative_to(ROOT)), extra)
        for path in TEXTS
        for hint in HINT.findall(path.read_text())
        for extra in hint.split(",")
    }
    assert len(named) > 8
    assert {one for one in named if one[1] not in EXTRAS} == set()


@pytest.mark.parametrize(
    ("extra", "modules"),
    [
        ("tune", ("torch", "transformers", "accelerate", "peft")),
        ("demo", ("torch", "transformers", "onnx", "onnxscript", "onnx_ir", "sklearn")),
        ("demo", ("tensorrt_rtx",)),
    ],
)
def test_the_extra_of_a_command_brings_all_that_the_command_requires(
    extra: str, modules: tuple[str, ...]
) -> None:
    assert [module for module in modules if not _brings(extra, module)] == []


def test_onnxruntime_gpu_comes_with_no_extra() -> None:
    """It fills the folder of onnxruntime, which the base install needs: together they give CUDA by chance."""
    for extra, lines in EXTRAS.items():
        assert not [line for line in lines if line.startswith("onnxruntime-gpu")], extra


def test_messages() -> None:
    assert missing_package("sklearn.datasets") == (
        "this needs the package 'sklearn', which is not installed; install it with `pip install 'moir-edge[demo]'`"
    )
    with pytest.raises(EnvironmentProblem, match=r"pip install 'moir-edge\[tune\]'"):
        require("json", "a_module_of_nobody", extra="tune")
