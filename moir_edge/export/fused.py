"""Write vision and decoder a second time, in the form that ONNX Runtime runs fastest; both forms read the same weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from moir_edge.bundle import FusedEntry
from moir_edge.export.cleanup import read_tensor
from moir_edge.export.components import TracedModel
from moir_edge.graphs.fused import FUSED_SUFFIX, NotFusedError, fuse_decoder, fuse_vision
from moir_edge.graphs.writing import WrittenGraph, write_beside
from moir_edge.models.layers import layer_windows

__all__ = ["write_fused"]

_log = logging.getLogger(__name__)


def write_fused(
    traced: TracedModel, written: Mapping[str, WrittenGraph], folder: Path
) -> dict[str, FusedEntry]:
    """Write ``<component>.fused.onnx`` beside the graphs that have such a form.

    Args:
        traced: The traced model.
        written: What was written, by component.
        folder: Holds it.

    Returns:
        The manifest's entries, by component. Where a layer is of a form that the fused operators cannot compute, the component
        is left out and a logged line says why.
    """
    found = {}
    for name in ("vision", "decoder"):
        if name not in written:
            continue
        model = ir.load(folder / written[name].graph)
        before = [str(value.name) for value in model.graph.inputs]
        try:
            _fuse(name, model, traced)
        except NotFusedError as error:
            _log.info(f"{name}: no fused form: {error}")
            continue
        found[name] = _write(name, model, before, folder)
    return found


def _fuse(name: str, model: ir.Model, traced: TracedModel) -> None:
    if name == "vision":
        fuse_vision(model)
        return
    text: Any = traced.checkpoint.architecture.text_config(traced.checkpoint.config)
    windows = layer_windows(text)
    fuse_decoder(model, windows=windows, context_length=traced.facts.context_length)


def _write(name: str, model: ir.Model, before: Sequence[str], folder: Path) -> FusedEntry:
    inputs = {str(value.name): value for value in model.graph.inputs}
    return FusedEntry(
        graph=write_beside(f"{name}{FUSED_SUFFIX}", model, folder),
        inputs=tuple(read_tensor(inputs[name]) for name in inputs if name not in before),
        without=tuple(name for name in before if name not in inputs),
    )
