"""Graphs of a forged bundle: altered as bytes and field by field, with hashes that fit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.area import Area, Case, Strategy, register
from tests.fuzz.areas.bundles import answer
from tests.fuzz.folders import link_copy, prove_again, rewrite
from tests.fuzz.mutate.graphs import alter_graph
from tests.fuzz.mutate.raw import alter_bytes

_GRAPHS = ("vision.onnx", "embedding.onnx", "router.onnx", "decoder.onnx")


@register
class Graphs(Area):
    """ONNX graphs of someone else."""

    name = "graphs"
    share = 1000
    sliced = 10
    needs = ("int4", "fp32")

    def warm(self) -> None:
        import onnx  # noqa: F401  (what alters graphs)

        for name in self.present():
            answer(self.seeds / name)

    def strategies(self) -> Sequence[Strategy]:
        return (self._fields, self._fields, self._fields, self._bytes)

    def attempt(self, payload: Any) -> None:
        answer(payload)

    def _fields(self, rng: random.Random, folder: Path) -> Case:
        name, copy, path = self._graph(rng, folder)
        content, how = alter_graph(rng, path.read_bytes())
        return _forged(copy, path, content, f"{name}/{path.name}: {how}")

    def _bytes(self, rng: random.Random, folder: Path) -> Case:
        name, copy, path = self._graph(rng, folder)
        content, how = alter_bytes(rng, path.read_bytes())
        return _forged(copy, path, content, f"{name}/{path.name}: {how}")

    def _graph(self, rng: random.Random, folder: Path) -> tuple[str, Path, Path]:
        name = rng.choice(self.present())
        copy = link_copy(self.seeds / name, folder / "bundle")
        (folder / "outside.bin").write_bytes(bytes(1 << 20))
        return name, copy, copy / rng.choice(_GRAPHS)


def _forged(copy: Path, path: Path, content: bytes, how: str) -> Case:
    rewrite(path, content)
    prove_again(copy)
    return Case(f"{how}, hashed", copy)
