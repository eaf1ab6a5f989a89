"""What a fuzzed area is: how its inputs are altered, and what reads them; one file in `areas` adds one."""

from __future__ import annotations

import importlib
import pkgutil
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

__all__ = ["Area", "Case", "Unnoticed", "area_names", "find_area", "register"]


class Unnoticed(Exception):  # noqa: N818 (a verdict, not an error of the product)
    """An altered file changed an answer, and nothing refused it."""


@dataclass
class Case:
    """One altered input.

    Attributes:
        recipe: What was altered and how, in a few words.
        payload: What `Area.attempt` works on.
    """

    recipe: str
    payload: Any


Strategy = Callable[[random.Random, Path], Case]


class Area(ABC):
    """One kind of input.

    Every process makes the area once, calls `warm`, and then forks once per case: `make` and `attempt` run in the fork.

    Attributes:
        name: What `--area` takes.
        share: Cases of a whole run, of some 10,000.
        sliced: Cases of the short run of CI; 0 leaves the area out.
        needs: Names of the seeds that it alters; see `seeds.py`. The short run makes the first of them only.

    Args:
        seeds: The folder of seeds; read only.
    """

    name: ClassVar[str]
    share: ClassVar[int]
    sliced: ClassVar[int] = 0
    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, seeds: Path) -> None:
        self.seeds = seeds

    def present(self) -> list[str]:
        """Return the names of the seeds that this run has."""
        return [name for name in self.needs if (self.seeds / name).exists()]

    def warm(self) -> None:  # noqa: B027  (an area may have nothing to warm up)
        """Import what reads the input and compute what answers are compared to; it must leave no thread behind."""

    @abstractmethod
    def strategies(self) -> Sequence[Strategy]:
        """Return the ways to alter an input; they take turns, so that a short run sees each."""

    @abstractmethod
    def attempt(self, payload: Any) -> None:
        """Let moir-edge read the input.

        Raises:
            MoirEdgeError: It refuses the input, as it should.
            Unnoticed: It takes an input that it should refuse.
        """

    def make(self, seed: int, index: int, folder: Path) -> Case:
        """Return case `index` of a run; the same for the same seed, on every machine."""
        rng = random.Random(f"{self.name}:{seed}:{index}")
        known = self.strategies()
        return known[index % len(known)](rng, folder)


_AREAS: dict[str, type[Area]] = {}


def register(kind: type[Area]) -> type[Area]:
    """Put an area in the table; use it as a class decorator."""
    if kind.name in _AREAS:
        raise ValueError(f"area {kind.name!r} is registered already")
    _AREAS[kind.name] = kind
    return kind


def find_area(name: str) -> type[Area]:
    """Return an area by its name."""
    return _all_areas()[name]


def area_names() -> list[str]:
    """Return the names of all areas, sorted."""
    return sorted(_all_areas())


def _all_areas() -> dict[str, type[Area]]:
    from tests.fuzz import areas

    for module in pkgutil.iter_modules(areas.__path__):
        importlib.import_module(f"{areas.__name__}.{module.name}")
    return _AREAS
