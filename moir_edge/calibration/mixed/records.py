"""Records of the sensitivity of each layer in each precision, for the report and the search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from moir_edge.calibration.mixed.layers import Layer
from moir_edge.errors import NotFiniteError
from moir_edge.finite import is_finite
from moir_edge.precisions import FP32
from moir_edge.progress import Progress, silent

__all__ = ["LayerSensitivity", "PrecisionCost", "try_layers"]


@dataclass(frozen=True, kw_only=True)
class PrecisionCost:
    """One layer in one precision, all others in float32.

    Attributes:
        precision: Its name.
        bytes: What weight and scales take.
        kl: KL divergence of the output from the float model's, in nats, mean over positions.
        loss_increase: Cross entropy of the answers less the float model's, in nats per token; None where there are no
            answers to score.
        index_agreement: Share of the sources that the router still picks, in [0, 1]; None where the layer comes after
            the router or there is none.
        matched_token_cosine: Cosine between the tokens that the router picks and those of the float model; None likewise.
    """

    precision: str
    bytes: int
    kl: float
    loss_increase: float | None = None
    index_agreement: float | None = None
    matched_token_cosine: float | None = None

    def require_finite(self, layer: str) -> None:
        """Refuse a figure that is NaN or infinite.

        Args:
            layer: Name of the layer, for the message.

        Raises:
            NotFiniteError: There is one.
        """
        for name, value in asdict(self).items():
            if isinstance(value, float) and not is_finite(value):
                raise NotFiniteError(
                    f"sensitivity of {layer} in {self.precision}: {name} is {value}; the layer cannot be "
                    "ranked. Keep its component in floating point with `settings.component_precision`"
                )


@dataclass(frozen=True, kw_only=True)
class LayerSensitivity:
    """One layer in every precision that it may take.

    Attributes:
        layer: The layer.
        costs: Smallest precision first; ``fp32``, which costs nothing but bytes, is last.
    """

    layer: Layer
    costs: tuple[PrecisionCost, ...]

    @classmethod
    def of(cls, layer: Layer, measured: Sequence[PrecisionCost]) -> LayerSensitivity:
        """Complete what was measured by ``fp32``, where the divergence is 0.

        Raises:
            NotFiniteError: A figure is NaN or infinite; a search by it would take the layer for a good one.
        """
        for cost in measured:
            cost.require_finite(layer.name)
        top = PrecisionCost(precision=FP32, bytes=layer.bytes[-1], kl=0.0)
        return cls(layer=layer, costs=(*measured, top))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "name": self.layer.name,
            "uses": [asdict(use) for use in self.layer.uses],
            "shape": list(self.layer.shape),
            "precisions": [
                {key: value for key, value in asdict(cost).items() if value is not None}
                for cost in self.costs
            ],
        }


def try_layers(
    layers: Sequence[Layer],
    cost: Callable[[Layer, str, int], PrecisionCost],
    *,
    progress: Progress = silent,
) -> tuple[LayerSensitivity, ...]:
    """Measure every layer in every precision that it may take but ``fp32``.

    Args:
        layers: In the order of the result.
        cost: Called as ``cost(layer, precision, bytes)``.
        progress: Called as ``progress("sensitivity", done, trials)``.
    """
    total, done, found = sum(len(one.precisions) - 1 for one in layers), 0, []
    for layer in layers:
        costs = []
        for precision, size in zip(layer.precisions[:-1], layer.bytes, strict=False):
            progress("sensitivity", done, total)
            costs.append(cost(layer, precision, size))
            done += 1
        found.append(LayerSensitivity.of(layer, costs))
    progress("sensitivity", total, total)
    return tuple(found)
