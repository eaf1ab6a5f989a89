"""Build the `router` graph of a bundle from the custom ops and a router's weights; nothing is traced."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moir_edge.ops.functions import function_protos
from moir_edge.ops.pooled_graph import pooled_body
from moir_edge.ops.schema import DOMAIN, OPSET, VERSION
from moir_edge.router.constants import GATE_GAIN, spelled

if TYPE_CHECKING:
    import onnx

    from moir_edge.router import Router, RouterConfig

__all__ = ["ROUTER_INPUTS", "ROUTER_OUTPUTS", "router_graph"]

ROUTER_INPUTS = ("inputs_embeds", "image_positions", "text_positions", "text_mask")
ROUTER_OUTPUTS = (
    "routed_embeds",
    "router_scores",
    "router_indices",
    "router_margin",
    "router_gate",
)
IR_VERSION = 10

_HEADER = """
<ir_version: {ir}, opset_import: [{opsets}], producer_name: "moir-edge">
router (
    float[batch, sequence, {hidden}] inputs_embeds,
    int64[batch, image_tokens] image_positions,
    int64[batch, text_tokens] text_positions,
    bool[batch, text_tokens] text_mask
) => (
    float[batch, sequence, {hidden}] routed_embeds,
    float[batch, routed_tokens] router_scores,
    int64[batch, routed_tokens, {k}] router_indices,
    float[batch, routed_tokens] router_margin,
    float[batch, routed_tokens] router_gate
)
{{
    zero = Constant <value = float {{0.0}}> ()
    float_max = Constant <value = float {{$FLOAT32_MAX}}> ()
    first = Constant <value = int64 {{0}}> ()
    none = Constant <value = int64 {{-1}}> ()
    i0 = Constant <value_ints = [0]> ()
    i1 = Constant <value_ints = [1]> ()
    i2 = Constant <value_ints = [2]> ()
    last = Constant <value_ints = [-1]> ()
    image_present = GreaterOrEqual (image_positions, first)
    image_places = Max (image_positions, first)
    text_present = Identity (text_mask)
    text_places = Where (text_mask, text_positions, first)
"""

# Rows of one side, and what tells whether the sample can be routed at all.
_READ = """
    {s}_at = Unsqueeze ({s}_places, i2)
    {s}_rows = GatherND <batch_dims = 1> (inputs_embeds, {s}_at)
    {s}_absolute = {norm} <keepdims = 0> ({s}_rows, last)
    {s}_sizes = Where ({s}_present, {s}_absolute, zero)
    {s}_size = ReduceSum <keepdims = 1> ({s}_sizes, i1)
    {s}_ones = Cast <to = 1> ({s}_present)
    {s}_count = ReduceSum <keepdims = 1> ({s}_ones, i1)
"""

_USABLE = """
    size = Add (image_size, text_size)
    finite = LessOrEqual (size, float_max)
    fewer = Min (image_count, text_count)
    both_present = Greater (fewer, zero)
    usable = And (finite, both_present)
"""

_SCORE = """
    {s}_valid = And ({s}_present, usable)
    {s}_valid_rows = Unsqueeze ({s}_valid, i2)
    {s}_x = Where ({s}_valid_rows, {s}_rows, zero)
    {s}_density, {s}_weak, {s}_normalized = {domain}.TokenInformation <{attributes}>
        ({s}_x, {s}_valid, "{s}.norm.weight", "{s}.norm.bias"{head})
"""

_AUTO = """
    one = Constant <value = float {{1.0}}> ()
    image_floor = Max (image_count, one)
    text_floor = Max (text_count, one)
    image_sum = ReduceSum <keepdims = 1> (image_density, i1)
    text_sum = ReduceSum <keepdims = 1> (text_density, i1)
    image_mean = Div (image_sum, image_floor)
    text_mean = Div (text_sum, text_floor)
    to_image = GreaterOrEqual (text_mean, image_mean)
    image_open = Cast <to = 1> (to_image)
    text_open = Sub (one, image_open)
    image_gate = Mul (image_{gate}, image_open)
    text_gate = Mul (text_{gate}, text_open)
"""

# TokenInformation leaves the gate open where it has no rule; the edge and the slope are weights, as a retuned router has others.
_RAMP = """
    {s}_full = Constant <value = float {{1.0}}> ()
    {s}_under = Sub ("{s}.gate_edge", {s}_density)
    {s}_ramp = Mul ("{s}.gate_slope", {s}_under)
    {s}_floored = Max ({s}_ramp, zero)
    {s}_clipped = Min ({s}_floored, {s}_full)
    {s}_opened = Where ({s}_valid, {s}_clipped, zero)
"""

_ROUTE = """
    {s}_weights, {s}_picks, {s}_gap = {domain}.SimilarityTopK <k = {k}>
        ({s}_normalized, {o}_normalized, {o}_density, {o}_valid, "{s}.query.weight", "{o}.key.weight")
    {s}_routed = {domain}.RouteTokens <merge = "{merge}">
        ({s}_x, {o}_x, {s}_weights, {s}_picks, {s}_gate, "{o}.down.weight", "{s}.up.weight"{extra})
    {s}_pick_places = Max ({s}_picks, first)
    {s}_pick_at = Unsqueeze ({s}_pick_places, i3)
    {s}_source_positions = GatherND <batch_dims = 1> ({o}_places, {s}_pick_at)
    {s}_is_open = Greater ({s}_gate, zero)
    {s}_is_open_column = Unsqueeze ({s}_is_open, i2)
    {s}_found = GreaterOrEqual ({s}_picks, first)
    {s}_shown = And ({s}_found, {s}_is_open_column)
    {s}_indices = Where ({s}_shown, {s}_source_positions, none)
    {s}_margin = Where ({s}_is_open, {s}_gap, zero)
"""

_CLOSED = """
    {s}_routed = Identity ({s}_x)
    {s}_gate = Mul ({s}_density, zero)
    {s}_margin = Identity ({s}_gate)
    {s}_shape = Shape ({s}_places)
    {s}_k = Constant <value_ints = [{k}]> ()
    {s}_indices_shape = Concat <axis = 0> ({s}_shape, {s}_k)
    {s}_indices = Expand (none, {s}_indices_shape)
"""

# Rows of tokens that do not take part go to a spare row behind the sequence, which is cut off again.
_WRITE = """
    router_scores = Concat <axis = 1> (image_density, text_density)
    router_indices = Concat <axis = 1> (image_indices, text_indices)
    router_margin = Concat <axis = 1> (image_margin, text_margin)
    router_gate = Concat <axis = 1> (image_gate, text_gate)
    rows = Concat <axis = 1> (image_routed, text_routed)
    valid = Concat <axis = 1> (image_valid, text_valid)
    places = Concat <axis = 1> (image_places, text_places)
    length = Shape <start = 1, end = 2> (inputs_embeds)
    targets = Where (valid, places, length)
    batch_size = Shape <start = 0, end = 1> (inputs_embeds)
    batch_scalar = Squeeze (batch_size, i0)
    step = Constant <value = int64 {1}> ()
    samples = Range (first, batch_scalar, step)
    sample_column = Unsqueeze (samples, i1)
    targets_shape = Shape (targets)
    sample_of_row = Expand (sample_column, targets_shape)
    sample_index = Unsqueeze (sample_of_row, i2)
    target_index = Unsqueeze (targets, i2)
    index = Concat <axis = 2> (sample_index, target_index)
    spare = Constant <value_ints = [0, 0, 0, 0, 1, 0]> ()
    with_spare = Pad (inputs_embeds, spare)
    written = ScatterND (with_spare, index, rows)
    routed_embeds = Slice (written, i0, length, i1)
}
"""


def router_graph(router: Router) -> onnx.ModelProto:
    """Return the graph of a router as inference runs it (`token`: with the hard gate), in float32.

    Inputs `inputs_embeds` (batch, sequence, hidden), `image_positions` (batch, image_tokens) int64, negative where
    none, `text_positions` and `text_mask` (batch, text_tokens); outputs `routed_embeds`, `router_scores`,
    `router_indices`, `router_margin`, `router_gate` as `moir_edge.router.RouterOutput` describes them. All axes are
    dynamic and at least 1; image_tokens and text_tokens may be smaller than k.

    Args:
        router: The router, on any device and in any dtype.
    """
    import onnx
    from onnx import numpy_helper, parser

    model: onnx.ModelProto = parser.parse_model(
        spelled(_graph_text(router.config, router.hidden_size))
    )
    for name, value in _weights(router).items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    if router.config.kind == "token":
        model.functions.extend(function_protos(router.config))
    onnx.checker.check_model(model)
    return model


def _graph_text(config: RouterConfig, hidden: int) -> str:
    """Write the graph for the settings in use, in ONNX's textual form."""
    is_token = config.kind == "token"
    opsets = f'"" : {OPSET}' + (f', "{DOMAIN}" : {VERSION}' if is_token else "")
    # Channel energies are squares, so for the channel router and its like squares must fit float32.
    norm = "ReduceL1" if is_token else "ReduceSumSquare"
    parts = [
        _HEADER.format(ir=IR_VERSION, opsets=opsets, hidden=hidden, k=config.sources),
        *(_READ.format(s=side, norm=norm) for side in ("image", "text")),
        _USABLE,
        _token_body(config) if is_token else pooled_body(config, hidden),
        _WRITE,
    ]
    return "".join(parts)


def _token_body(config: RouterConfig) -> str:
    """Write the steps of the token router between reading and writing the rows."""
    sides = (("image", "text"), ("text", "image"))
    parts = ["    i3 = Constant <value_ints = [3]> ()\n"]
    attributes = f'density_kind = "{config.density}"'
    attributes += "" if config.ratio is None else f", ratio = {config.ratio!r}"
    attributes += "" if config.threshold is None else f", threshold = {config.threshold!r}"
    for side, _ in sides:
        head = (
            f', "{side}.head.weight", "{side}.head.bias"' if config.density == "confidence" else ""
        )
        parts.append(_SCORE.format(s=side, domain=DOMAIN, attributes=attributes, head=head))
    parts.append(_gates(config))
    for side, other in sides:
        extra = {
            "add": "",
            "concat": f', "{side}.own.weight", {side}_normalized',
            "interpolate": f', "{side}.blend"',
        }[config.merge]
        template = _ROUTE if side in config.enriched_sides else _CLOSED
        parts.append(
            template.format(
                s=side, o=other, domain=DOMAIN, k=config.top_k, merge=config.merge, extra=extra
            )
        )
    return "".join(parts)


def _gates(config: RouterConfig) -> str:
    gate = "opened" if config.learned_gate else "weak"
    sides = config.enriched_sides
    ramps = "".join(_RAMP.format(s=side) for side in sides) if config.learned_gate else ""
    if config.direction == "auto":
        return ramps + _AUTO.format(gate=gate)
    return ramps + "".join(f"    {side}_gate = Identity ({side}_{gate})\n" for side in sides)


def _weights(router: Router) -> dict[str, npt.NDArray[Any]]:
    """Return the initializers in float32: matrices as (in, out), 1/√rank inside the query, tanh inside the blend.

    Edge and slope of a learned gate are those of the ramp.
    """
    weights: dict[str, npt.NDArray[Any]] = {}
    for name, tensor in router.state_dict().items():
        value = tensor.detach().float().cpu().numpy()
        if value.ndim == 2:
            value = value.T
        if name.endswith("query.weight"):
            value = value / np.float32(math.sqrt(router.config.rank))
        if name.endswith("blend"):
            value = np.tanh(value)
        if name.endswith("gate_edge"):
            value = 1 + np.float32(GATE_GAIN) * value
        if name.endswith("gate_slope"):
            value = np.exp(np.float32(GATE_GAIN) * value)
        weights[name] = np.ascontiguousarray(value)
    return weights
