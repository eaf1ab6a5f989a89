"""The router graph's middle part for the `channel` and `gate` kinds, in standard operators alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moir_edge.router.config import RouterConfig

__all__ = ["pooled_body"]

# Tokens of one side, zero where none takes part, and their mean (batch, 1, hidden).
_POOL = """
    {s}_valid = And ({s}_present, usable)
    {s}_valid_rows = Unsqueeze ({s}_valid, i2)
    {s}_x = Where ({s}_valid_rows, {s}_rows, zero)
    {s}_part = Cast <to = 1> ({s}_valid)
    {s}_total = ReduceSum <keepdims = 1> ({s}_x, i1)
    {s}_number = Max ({s}_count, one)
    {s}_number_column = Unsqueeze ({s}_number, i2)
    {s}_mean = Div ({s}_total, {s}_number_column)
"""

_CHANNEL_CONSTANTS = """
    tiny = Constant <value = float {{$SHARE_FLOOR}}> ()
    least_square = Constant <value = float {{$LEAST_MEAN_SQUARE}}> ()
    scale_low = Constant <value = float {{$SCALE_LOW}}> ()
    scale_high = Constant <value = float {{$SCALE_HIGH}}> ()
    quota = Constant <value_ints = [{count}]> ()
    quota_float = Constant <value = float {{{count}.0}}> ()
    step_one = Constant <value = int64 {{1}}> ()
    width = Constant <value = int64 {{{hidden}}}> ()
    channels = Range (first, width, step_one)
"""

# The picked channels are marked by comparison with all channel numbers: no scatter, and no TopK over all of them.
_CHANNEL = """
    {s}_away = Sub ({s}_x, {s}_mean)
    {s}_spread = Where ({s}_valid_rows, {s}_away, zero)
    {s}_energy = ReduceSumSquare <keepdims = 0> ({s}_spread, i1)
    {s}_lowest, {s}_picks = TopK <axis = 1, largest = 0, sorted = 1> ({s}_energy, quota)
    {s}_pick_column = Unsqueeze ({s}_picks, i2)
    {s}_hits = Equal ({s}_pick_column, channels)
    {s}_hit_ones = Cast <to = 1> ({s}_hits)
    {s}_exchanged = ReduceSum <keepdims = 1> ({s}_hit_ones, i1)

    {s}_squares = Mul ({s}_x, {s}_x)
    {s}_weak_squares = Mul ({s}_squares, {s}_exchanged)
    {s}_weak = ReduceSum <keepdims = 0> ({s}_weak_squares, i2)
    {s}_weak_total = ReduceSum <keepdims = 1> ({s}_weak, i1)
    {s}_entries = Mul ({s}_number, quota_float)
    {s}_own_square = Div ({s}_weak_total, {s}_entries)
    {s}_own_floored = Max ({s}_own_square, least_square)
    {s}_own_rms = Sqrt ({s}_own_floored)
    {o}_mean_squares = Mul ({o}_mean, {o}_mean)
    {o}_taken_squares = Mul ({o}_mean_squares, {s}_exchanged)
    {o}_taken_total = ReduceSum <keepdims = 0> ({o}_taken_squares, i2)
    {o}_square = Div ({o}_taken_total, quota_float)
    {o}_floored = Max ({o}_square, least_square)
    {o}_rms = Sqrt ({o}_floored)
    {s}_ratio = Div ({s}_own_rms, {o}_rms)
    {s}_scale_high = Min ({s}_ratio, scale_high)
    {s}_scale = Max ({s}_scale_high, scale_low)
    {s}_scale_column = Unsqueeze ({s}_scale, i2)
    {s}_matched = Mul ({s}_scale_column, {o}_mean)

    {s}_alpha = Sigmoid ("{s}.mix")
    {s}_share = Mul ({s}_exchanged, {s}_alpha)
    {s}_distance = Sub ({s}_matched, {s}_x)
    {s}_step = Mul ({s}_share, {s}_distance)
    {s}_routed = Add ({s}_x, {s}_step)
    {s}_whole = ReduceSum <keepdims = 0> ({s}_squares, i2)
    {s}_whole_floored = Max ({s}_whole, tiny)
    {s}_lost = Div ({s}_weak, {s}_whole_floored)
    {s}_kept = Sub (one, {s}_lost)
    {s}_kept_bounded = Max ({s}_kept, zero)
    {s}_density = Mul ({s}_kept_bounded, {s}_part)
    {s}_share_total = ReduceSum <keepdims = 0> ({s}_share, i2)
    {s}_strength = Div ({s}_share_total, quota_float)
    {s}_gate = Mul ({s}_strength, {s}_part)
"""

_GATE = """
    {s}_shape = Shape ({s}_x)
    {o}_spread = Expand ({o}_mean, {s}_shape)
    {s}_pair = Concat <axis = 2> ({visual}, {text})
    {s}_gate_dots = MatMul ({s}_pair, "{s}.gate.weight")
    {s}_gate_logits = Add ({s}_gate_dots, "{s}.gate.bias")
    {s}_both_weights = Softmax <axis = -1> ({s}_gate_logits)
    {s}_visual_weight = Slice ({s}_both_weights, i0, i1, i2)
    {s}_text_weight = Slice ({s}_both_weights, i1, i2, i2)
    {s}_visual = Mul ({visual}, {s}_visual_weight)
    {s}_text = Mul ({text}, {s}_text_weight)
    {s}_weighted = Concat <axis = 2> ({s}_visual, {s}_text)
    {s}_projected = MatMul ({s}_weighted, "{s}.projection.weight")
    {s}_step = Add ({s}_projected, "{s}.projection.bias")
    {s}_routed = Add ({s}_x, {s}_step)
    {s}_own_weight = Squeeze ({s}_{own}_weight, i2)
    {s}_other_weight = Squeeze ({s}_{other}_weight, i2)
    {s}_density = Mul ({s}_own_weight, {s}_part)
    {s}_gate = Mul ({s}_other_weight, {s}_part)
"""

_CLOSED = """
    {s}_routed = Identity ({s}_x)
    {s}_density = Identity ({s}_part)
    {s}_gate = Mul ({s}_part, zero)
"""

_NO_SOURCES = """
    {s}_margin = Mul ({s}_part, zero)
    {s}_place_column = Unsqueeze ({s}_places, i2)
    {s}_shape_of_indices = Shape ({s}_place_column)
    {s}_indices = Expand (none, {s}_shape_of_indices)
"""


def pooled_body(config: RouterConfig, hidden: int) -> str:
    """Write the steps between reading and writing the rows, in ONNX's textual form.

    Args:
        config: Settings of a `channel` or `gate` router.
        hidden: Width D of the language model's embeddings.
    """
    sides = (("image", "text"), ("text", "image"))
    parts = ["    one = Constant <value = float {1.0}> ()\n"]
    parts += [_POOL.format(s=side) for side, _ in sides]
    if config.kind == "channel":
        count = config.exchanged_channels(hidden)
        parts.append(_CHANNEL_CONSTANTS.format(count=count, hidden=hidden))
    for side, other in sides:
        if side not in config.enriched_sides:
            parts.append(_CLOSED.format(s=side))
        elif config.kind == "channel":
            parts.append(_CHANNEL.format(s=side, o=other))
        else:
            rows = {side: f"{side}_x", other: f"{other}_spread"}
            names = {"visual": rows["image"], "text": rows["text"]}
            own, rest = ("visual", "text") if side == "image" else ("text", "visual")
            parts.append(_GATE.format(s=side, o=other, own=own, other=rest, **names))
        parts.append(_NO_SOURCES.format(s=side))
    return "".join(parts)
