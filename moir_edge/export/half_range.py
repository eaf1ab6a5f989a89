"""Refuse float16 for a component whose activations pass 65,504: ONNX Runtime's CPU hides it, and a GPU gives infinity.

The CPU computes most float16 operators in float32 and drops the rounding between them, so the written graph cannot tell.
Torch's float32 model, which parity runs anyway, can: it is watched at the layers that `to_half` puts in float16.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from moir_edge.errors import UnsupportedError
from moir_edge.graphs.half import HALF_MAX

__all__ = ["Reach", "require_half_range", "watched_reach"]

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Modules that become MatMul, Gemm and Conv: what enters them is cast to float16, what leaves them is float16."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Largest finite magnitude of a layer's input or output.

    Attributes:
        component: The bundle's.
        layer: Name of the module.
        side: ``input`` or ``output``.
        value: 0 where nothing was finite.
    """

    component: str
    layer: str
    side: str
    value: float


@contextmanager
def watched_reach(model: Any) -> Iterator[list[Reach]]:
    """Watch the layers for as long as the block runs torch's model; the list is filled at its end.

    Products inside attention are not layers, and are not watched.
    """
    component = _Components(model)
    largest: dict[tuple[str, str], float] = {}
    reached: list[Reach] = []
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, _LAYERS):
                hooks.callback(module.register_forward_hook(_watch(name, largest)).remove)
        yield reached
    reached += [
        Reach(component=component(name), layer=name, side=side, value=value)
        for (name, side), value in largest.items()
    ]


def require_half_range(reached: Iterable[Reach], components: Collection[str]) -> None:
    """Refuse inputs and outputs of layers past float16's range.

    Args:
        reached: From `watched_reach`.
        components: Those whose products run in float16.

    Raises:
        UnsupportedError: A finite value is past ±65,504; the message names component, layer and value.
    """
    for one in reached:
        if one.component in components and one.value > HALF_MAX:
            raise UnsupportedError(
                f"{one.component}: the {one.side} of {one.layer} reaches {one.value:.3g}, past float16's "
                f"{HALF_MAX:g}, so its answers on a GPU would be infinite; "
                f"give `settings.component_precision={{{one.component!r}: 'fp32'}}`"
            )


def _watch(name: str, largest: dict[tuple[str, str], float]) -> Any:
    def watch(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        for side, value in (("input", inputs[0]), ("output", output)):
            found = float(value.abs().max()) if value.numel() else 0.0
            before = largest.setdefault((name, side), 0.0)
            if before < found < math.inf:
                largest[name, side] = found

    return watch


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
