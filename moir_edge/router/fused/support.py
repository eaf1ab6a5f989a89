"""Decide whether the fused kernels serve a router call; if not, give the reason in one sentence."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

from moir_edge.environment import missing_package
from moir_edge.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from moir_edge.router.fused.protocol import FusableRouter

__all__ = ["MAX_RANK", "MAX_TOP_K", "SWITCH", "fused_obstacle", "switched_off"]

SWITCH = "MOIR_EDGE_FUSED_ROUTER"
"""Environment variable: ``auto`` (the default) or ``off``."""

MAX_TOP_K = 8
"""The best sources are kept in registers, by as many passes over a block."""

MAX_RANK = 64
"""Above it the projections of a tile do not fit a program's registers."""

_FIRST_SM = (7, 5)
_DTYPES = ("torch.float32", "torch.float16", "torch.bfloat16")


def switched_off() -> bool:
    """Return whether the environment switches the fused router off.

    Raises:
        DataError: `SWITCH` has another value than ``auto`` and ``off``.
    """
    value = os.environ.get(SWITCH, "auto")
    if value not in ("auto", "off"):
        raise DataError(f"{SWITCH} is {value!r}; expected 'auto' or 'off'")
    return value == "off"


def fused_obstacle(router: FusableRouter, inputs_embeds: Tensor) -> str | None:
    """Return why a call is not routed by the fused kernels; None where it is.

    Args:
        router: The router that is called.
        inputs_embeds: (batch, sequence, hidden), whose device and dtype count.

    Raises:
        DataError: As in `switched_off`.
    """
    import torch

    if torch.compiler.is_compiling():
        return "torch.compile makes kernels of its own"
    if switched_off():
        return f"{SWITCH}=off"
    return _of_the_router(router) or _of_the_tensor(inputs_embeds)


def _of_the_router(router: FusableRouter) -> str | None:
    import torch

    config = router.config
    if router.fused == "off":
        return "router.fused is 'off'"
    if router.training or torch.is_grad_enabled():
        return "gradients may be asked for: the kernels serve evaluation mode under torch.no_grad"
    if config.top_k > MAX_TOP_K:
        return f"top_k is {config.top_k}; the kernels keep at most {MAX_TOP_K} sources"
    if config.rank > MAX_RANK:
        return f"rank is {config.rank}; the kernels hold at most {MAX_RANK}"
    return None


def _of_the_tensor(embeds: Tensor) -> str | None:
    import torch

    if str(embeds.dtype) not in _DTYPES:
        return f"inputs_embeds are {embeds.dtype}; the kernels read float32, float16 and bfloat16"
    # Before the search for triton, which is slow and of no use without a GPU.
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if not embeds.is_cuda and not interpreted:
        return f"inputs_embeds are on {embeds.device.type}, not on a CUDA device"
    if importlib.util.find_spec("triton") is None:
        return missing_package("triton")
    if embeds.is_cuda and torch.cuda.get_device_capability(embeds.device) < _FIRST_SM:
        return "the GPU is older than SM 75, the first that is compiled for"
    return None
