"""Choose the precision of each layer: as asked, as given by name, or the fall-back."""

from __future__ import annotations

from dataclasses import dataclass

from moir_edge.calibration.formats import LayerFormat, get_format
from moir_edge.calibration.options import LayerOptions
from moir_edge.calibration.patterns import WeightUse, is_head, reason_to_leave
from moir_edge.precisions import FP32, INT8_WEIGHT_ONLY

__all__ = ["LayerChoice", "choose_layer"]


@dataclass(frozen=True, kw_only=True)
class LayerChoice:
    """Decision for one layer.

    Attributes:
        format: How it is stored; None leaves it in float32.
        reason: Why it is not what was asked for; empty if it is.
    """

    format: LayerFormat | None
    reason: str = ""


def choose_layer(use: WeightUse, precision: str, options: LayerOptions) -> LayerChoice:
    """Return the format of one layer, before its activation has been looked at.

    Token tables and the head, which the table's bytes may be, are INT8 by weight alone unless they are given
    a precision by name; a block format falls back where K is not a multiple of the block size.

    Args:
        use: From `find_weight_uses`.
        precision: What was asked for.
        options: Names the layers to leave out or to give a precision of their own.

    Raises:
        UnsupportedError: An unknown precision.
    """
    if reason := reason_to_leave(use, options.exclude):
        return LayerChoice(format=None, reason=reason)
    given = options.precisions.items()
    named = next((name for pattern, name in given if use.is_named(pattern)), None)
    if named == FP32:
        return LayerChoice(format=None, reason="chosen by name")
    format_ = get_format(named or precision)
    if use.kind == "table":
        return _fixed(precision, "token tables take one INT8 scale per token")
    if is_head(use.node) and named is None:
        return _fixed(precision, _HEAD[format_.activation is not None])
    size = format_.rows_per_scale(options.block_size)
    if format_.blocks and use.shape[0] % size:
        why = f"K = {use.shape[0]} is not a multiple of the block size {size}"
        return LayerChoice(format=get_format(format_.fallback), reason=why)
    return LayerChoice(format=format_, reason="chosen by name" if named else "")


_HEAD = {
    False: "the head decides between near tokens; fewer bits cost accuracy",
    True: "the head decides between near tokens; its input stays float",
}


def _fixed(precision: str, reason: str) -> LayerChoice:
    """Return INT8 by weight alone, with the reason where that is not what was asked for."""
    fixed = get_format(INT8_WEIGHT_ONLY)
    return LayerChoice(format=fixed, reason="" if precision == fixed.precision else reason)
