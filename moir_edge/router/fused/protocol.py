"""Interface of a token router to the fused kernels: settings, weights and mode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from moir_edge.router.config import RouterConfig

__all__ = ["FusableRouter"]


class FusableRouter(Protocol):
    """A token router, as `moir_edge.router.token.TokenRouter` is one.

    Attributes:
        fused: ``auto`` or ``off``.
        training: Whether it is in training mode.
        config: Its settings.
        hidden_size: Width of the embeddings.
        image: Projections of the image side: modules `norm`, and `head`, `query`, `key`, `own`, `down`, `up` and the
            parameter `blend` where the settings ask for them; `gate_edge` and `ramp()` where the gate is learned.
        text: The same of the text side.
    """

    fused: Literal["auto", "off"]
    training: bool
    config: RouterConfig
    hidden_size: int
    image: Any
    text: Any

    def parameters(self) -> Iterator[Tensor]:
        """Return all weights."""
