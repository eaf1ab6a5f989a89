"""Refuse float16 for a component whose activations pass 65,504: ONNX Runtime's CPU hides it, and a GPU gives infinity.

The CPU computes most float16 operators in float32 and drops the rounding between them, so the written graph cannot tell.
Torch's float32 model, which parity runs anyway, can: it is watched at the layers that `to_half` puts in float16.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from moir_edge.checkpoint import Checkpoint
from moir_edge.errors import UnsupportedError
from moir_edge.graphs.half import HALF_MAX

__all__ = ["half_range_required"]

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Modules that become MatMul, Gemm and Conv: what enters them is cast to float16, what leaves them is float16."""


@contextmanager
def half_range_required(checkpoint: Checkpoint, components: Collection[str]) -> Iterator[None]:
    """Refuse inputs and outputs of layers past float16's range for as long as the block runs torch's model.

    Products inside attention are not layers, and are not watched.

    Args:
        checkpoint: Holds the float32 model.
        components: Those whose products run in float16.

    Raises:
        UnsupportedError: A finite value is past ±65,504; the message names component, layer and value.
    """
    component = _Components(checkpoint.model)
    with ExitStack() as hooks:
        for name, module in checkpoint.model.named_modules():
            if isinstance(module, _LAYERS) and component(name) in components:
                hook = module.register_forward_hook(_check(component(name), name))
                hooks.callback(hook.remove)
        yield


def _check(component: str, name: str) -> Any:
    def check(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        for side, value in (("input", inputs[0]), ("output", output)):
            if value.numel() and HALF_MAX < float(value.abs().max()) < torch.inf:
                raise UnsupportedError(
                    f"{component}: the {side} of {name} reaches {float(value.abs().max()):.3g}, past float16's "
                    f"{HALF_MAX:g}, so its answers on a GPU would be infinite; "
                    f"give `settings.component_precision={{{component!r}: 'fp32'}}`"
                )

    return check


class _Components:
    """Gives the component of a bundle that a module of torch's model becomes part of, by its name."""

    def __init__(self, model: Any) -> None:
        names = {id(module): name for name, module in model.named_modules()}
        parts = (model.get_decoder(), model.get_output_embeddings())
        self._decoder = [names[id(part)] for part in parts if id(part) in names]

    def __call__(self, name: str) -> str:
        if any(f"{name}.".startswith(f"{one}.") for one in self._decoder):
            return "decoder"
        return "router" if name.startswith("moir_router.") else "vision"
