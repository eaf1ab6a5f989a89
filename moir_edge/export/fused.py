"""Write the decoder a second time, in the form that ONNX Runtime runs fastest; both forms read the same weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import onnx_ir as ir

from moir_edge.bundle import FusedEntry
from moir_edge.export.cleanup import read_tensor
from moir_edge.export.components import TracedModel
from moir_edge.graphs.fused import FUSED_SUFFIX, NotFusedError, fuse_decoder
from moir_edge.graphs.writing import WrittenGraph, write_beside
from moir_edge.models.layers import layer_windows

__all__ = ["write_fused_decoder"]

_log = logging.getLogger(__name__)


def write_fused_decoder(
    traced: TracedModel, written: WrittenGraph, folder: Path
) -> FusedEntry | None:
    """Write ``decoder.fused.onnx`` beside ``decoder.onnx``.

    Args:
        traced: The traced model.
        written: What was written of the decoder.
        folder: Holds it.

    Returns:
        The manifest's entry, or None where a layer is of a form that the fused operators cannot compute; a logged line says which.
    """
    text: Any = traced.checkpoint.architecture.text_config(traced.checkpoint.config)
    model = ir.load(folder / written.graph)
    try:
        fuse_decoder(
            model,
            windows=layer_windows(text),
            context_length=traced.facts.context_length,
        )
    except NotFusedError as error:
        _log.info(f"decoder: no fused form: {error}")
        return None
    name = f"{Path(written.graph).stem}{FUSED_SUFFIX}"
    graph, data = write_beside(name, model, folder)
    return FusedEntry(
        graph=graph,
        data=tuple(dict.fromkeys((*written.data, *data))),
        inputs=tuple(read_tensor(value) for value in model.graph.inputs),
        outputs=tuple(read_tensor(value) for value in model.graph.outputs),
    )
