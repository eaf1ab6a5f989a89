"""The fused kernels as the inference step of a token router, on torch tensors."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moir_edge.errors import EnvironmentProblem
from moir_edge.router.base import RouterOutput
from moir_edge.router.fused.support import SWITCH
from moir_edge.router.fused.weights import stack_weights

if TYPE_CHECKING:
    from moir_edge.router.fused.launch import Tiles
    from moir_edge.router.fused.protocol import FusableRouter

__all__ = ["route_fused"]


@torch.no_grad()
def route_fused(
    router: FusableRouter,
    inputs_embeds: Tensor,
    image_positions: Tensor,
    text_positions: Tensor,
    text_mask: Tensor,
    *,
    tiles: Tiles | None = None,
) -> RouterOutput:
    """Route one batch as `TokenRouter.route` does in evaluation mode; the result has no autograd graph.

    Args:
        router: Whose weights and settings to use; `fused_obstacle` says whether the kernels can serve it.
        inputs_embeds: (batch, sequence, hidden) on a CUDA device, or on the CPU under Triton's interpreter.
        image_positions: (batch, image_tokens) int64; negative where none.
        text_positions: (batch, text_tokens) int64.
        text_mask: (batch, text_tokens) bool.
        tiles: How much a program of a kernel works on; None for the defaults.

    Raises:
        EnvironmentProblem: A kernel cannot be compiled or launched on this device.
    """
    # Imported here: triton is an extra, and of no use without a GPU.
    from moir_edge.router.fused.launch import launch

    texts = torch.where(text_mask, text_positions, -1)
    try:
        # Triton launches on the current device, which need not be the tensors'.
        device = inputs_embeds.device
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            outputs = launch(
                inputs_embeds.contiguous(),
                torch.cat([image_positions, texts], dim=1),
                image_positions.shape[1],
                stack_weights(router),
                router.config,
                tiles=tiles,
            )
    except Exception as error:  # triton has no common base for what its compiler and driver raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise EnvironmentProblem(
            f"the fused router failed on {inputs_embeds.device} ({reason}); set {SWITCH}=off to route with torch"
        ) from error
    return RouterOutput(*outputs)
