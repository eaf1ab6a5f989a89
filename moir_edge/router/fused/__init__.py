"""The token router as fused GPU kernels, written in Triton: what they take, when they are used, how to switch them off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moir_edge.lazy import lazy_names

if TYPE_CHECKING:
    from moir_edge.router.fused.support import SWITCH, fused_obstacle, switched_off
    from moir_edge.router.fused.torch_op import route_fused
    from moir_edge.router.fused.traffic import Traffic, router_traffic
    from moir_edge.router.fused.weights import RouterWeights, stack_weights

__all__ = [
    "SWITCH",
    "RouterWeights",
    "Traffic",
    "fused_obstacle",
    "route_fused",
    "router_traffic",
    "stack_weights",
    "switched_off",
]

# Imported on first use: only the kernels need triton, and the byte counts need neither it nor torch.
__getattr__ = lazy_names(
    __name__,
    {
        "support": ["SWITCH", "fused_obstacle", "switched_off"],
        "torch_op": ["route_fused"],
        "traffic": ["Traffic", "router_traffic"],
        "weights": ["RouterWeights", "stack_weights"],
    },
)
