"""The custom op domain `moir_edge`: schema, ONNX function bodies, numpy reference and the router graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moir_edge.lazy import lazy_names

if TYPE_CHECKING:
    from moir_edge.ops.functions import function_protos
    from moir_edge.ops.graph import ROUTER_INPUTS, ROUTER_OUTPUTS, router_graph
    from moir_edge.ops.schema import DOMAIN, OPS, VERSION, onnx_schemas

__all__ = [
    "DOMAIN",
    "OPS",
    "ROUTER_INPUTS",
    "ROUTER_OUTPUTS",
    "VERSION",
    "function_protos",
    "onnx_schemas",
    "router_graph",
]

# Imported on first use: the op names are of interest where onnx is not installed.
__getattr__ = lazy_names(
    __name__,
    {
        "schema": ["DOMAIN", "OPS", "VERSION", "onnx_schemas"],
        "functions": ["function_protos"],
        "graph": ["ROUTER_INPUTS", "ROUTER_OUTPUTS", "router_graph"],
    },
)
