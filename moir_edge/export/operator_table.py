"""Torch's table of operators and their ONNX forms, built once a process: each `torch.onnx.export` would build it anew."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

__all__ = ["operator_table_once"]

_MODULE = "torch.onnx._internal.exporter._registration"


@contextmanager
def operator_table_once() -> Iterator[None]:
    """Let `torch.onnx.export` take a copy of one table for as long as the block lasts.

    Torch 2.13 reads the sources of 1,500 functions for it, 0.8 s, and takes no table of its caller. A torch without the
    class that is looked for here builds its table as ever.
    """
    registry = getattr(import_module(_MODULE), "ONNXRegistry", None)
    original = None if registry is None else vars(registry).get("from_torchlib")
    if registry is None or original is None:
        yield
        return

    def from_torchlib(cls: Any, opset_version: int | None = None) -> Any:
        del cls
        return _copy(_table(registry, original, opset_version))

    registry.from_torchlib = classmethod(from_torchlib)
    try:
        yield
    finally:
        registry.from_torchlib = original


@cache
def _table(registry: Any, original: Any, opset_version: int | None) -> Any:
    build = original.__get__(None, registry)
    return build() if opset_version is None else build(opset_version=opset_version)


def _copy(table: Any) -> Any:
    """Return a table that takes further operators without the first one's getting them."""
    found = copy.copy(table)
    found.functions = {target: list(forms) for target, forms in table.functions.items()}
    return found
