"""The form in which a GPU takes a quantized graph: half precision around the products, and signed activations.

A CPU wants the opposite: it multiplies in float32 and, on x86, in unsigned bytes. A bundle for a GPU target therefore holds its graphs in
this form from the export on, so that what TensorRT compiles, on any machine or on the device, is the file in the
bundle, and weights for a refit carry the names and values that its engines know.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["to_gpu_form", "write_gpu_form"]


def to_gpu_form(model: ir.Model) -> None:
    """Convert a quantized graph in place; its inputs and outputs stay float32 and int64.

    Args:
        model: As `apply_precision` leaves it.
    """
    from moir_edge.calibration.rewriting import require_symmetric, sign_activations
    from moir_edge.graphs.half import to_half

    require_symmetric(model.graph)
    sign_activations(model.graph)
    to_half(model)


def write_gpu_form(graph: Path, folder: Path) -> Path:
    """Write a copy of a graph that was exported for a CPU, in the GPU's form.

    Args:
        graph: The graph; external data lies relative to its folder.
        folder: Where the copy goes, under the same name.

    Returns:
        The copy's path.
    """
    import onnx_ir as ir

    from moir_edge.graphs.writing import write_graphs

    model = ir.load(graph)
    to_gpu_form(model)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / write_graphs({graph.stem: model}, folder)[graph.stem].graph
