"""The plot of every layer's divergence in every precision, a file that stands alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moir_edge.charts.axes import AXIS, RIGHT, WIDTH, grid_x, label, line
from moir_edge.charts.standalone import stand_alone
from moir_edge.charts.svg import Scale, draw, marker
from moir_edge.precisions import FP32

__all__ = ["sensitivity_plot"]

Layers = Sequence[Mapping[str, Any]]

_ROW = 18
_TOP = 34
_LEFT = 238
# Divergences under it are rounding of float32 sums; they are drawn at the edge.
_LEAST_KL = 1e-10


def sensitivity_plot(record: Mapping[str, Any]) -> str:
    """Draw one row per layer with a marker per precision, logarithmic; the chosen one has a line to it.

    Args:
        record: What ``reports/sensitivity.json`` holds.
    """
    layers: Layers = record["layers"]
    names = _precisions(layers)
    height = _TOP + _ROW * len(layers) + AXIS
    x = _scale(layers)
    parts = [grid_x(x, _TOP, height - AXIS, ""), _legend(names)]
    tips = []
    for at, layer in enumerate(layers):
        y = _TOP + _ROW * (at + 0.5)
        parts.append(label(_LEFT - 10, y + 4, _short(layer["name"]), anchor="end"))
        own = [cost for cost in layer["precisions"] if cost["precision"] in names]
        chosen = [cost for cost in own if cost["precision"] == layer.get("chosen")]
        parts += [line(_LEFT, y, x(cost["kl"]), y, f"s{_at(names, cost)}") for cost in chosen]
        for cost in own:
            tips.append(f"{layer['name']}, {cost['precision']}: KL {cost['kl']:.2e}")
            parts.append(marker(_at(names, cost), x(cost["kl"]), y, 4, tips[-1]))
    caption = "KL from fp32 (nats per token), one layer quantized"
    caption += "; line: the precision chosen" if "mix" in record else ""
    parts.append(label(WIDTH / 2, height - 6, caption))
    return stand_alone(draw("Sensitivity of the layers", "; ".join(tips), WIDTH, height, *parts))


def _precisions(layers: Layers) -> list[str]:
    """Return the precisions that are drawn, in the order in which they first come; fp32 is the reference."""
    names = [cost["precision"] for layer in layers for cost in layer["precisions"]]
    return [name for name in dict.fromkeys(names) if name != FP32]


def _at(names: Sequence[str], cost: Mapping[str, Any]) -> int:
    return names.index(cost["precision"])


def _scale(layers: Layers) -> Scale:
    values = [cost["kl"] for layer in layers for cost in layer["precisions"]]
    drawn = [max(value, _LEAST_KL) for value in values if value > 0] or [_LEAST_KL]
    return Scale(min(drawn) / 2, max(drawn) * 2, _LEFT, WIDTH - RIGHT, logarithmic=True)


def _legend(names: Sequence[str]) -> str:
    parts = []
    for at, name in enumerate(names):
        left = _LEFT + 150 * at
        parts.append(marker(at, left, 14, 4, name))
        parts.append(label(left + 10, 18, name, anchor="start"))
    return "".join(parts)


def _short(name: str, length: int = 27) -> str:
    first = name.split(" + ")[0]
    return first if len(first) <= length else f"{first[: length - 1]}…"
