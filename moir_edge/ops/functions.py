"""The ops' bodies in standard operators: ONNX functions that a runtime inlines where it has no fused kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moir_edge.ops.schema import DOMAIN, OPSET
from moir_edge.router.constants import spelled

if TYPE_CHECKING:
    import onnx

    from moir_edge.router.config import RouterConfig

__all__ = ["function_protos"]

_CONFIDENCE = """
    logits = MatMul (normalized, weight)
    biased = Add (logits, bias)
    flat = Squeeze (biased, last)
    raw = Sigmoid (flat)
"""

_ENTROPY = """
    tiny = Constant <value = float {$SHARE_FLOOR}> ()
    energy = Mul (tokens, tokens)
    total = ReduceSum <keepdims = 1> (energy, last)
    divisor = Max (total, tiny)
    share = Div (energy, divisor)
    positive = Max (share, tiny)
    logs = Log (positive)
    terms = Mul (share, logs)
    negative = ReduceSum <keepdims = 0> (terms, last)
    width = Shape <start = -1> (tokens)
    hidden = Cast <to = 1> (width)
    highest = Log (hidden)
    lowest = Neg (highest)
    entropy = Div (negative, lowest)
    zero = Constant <value = float {0.0}> ()
    above = Max (entropy, zero)
    raw = Min (above, one)
"""

# Rank by comparison, not by TopK: TensorRT limits K to 3840, and many-tile images have more tokens.
_WEAK_BY_RATIO = """
    slope = Constant <value = float {$DENSITY_SLOPE}> ()
    beyond = Constant <value = float {$BEHIND}> ()
    half = Constant <value = float {0.5}> ()
    share_weak = Constant <value_float: float = @ratio> ()
    second = Constant <value = int64 {1}> ()
    order = CumSum (present, second)
    steps = Mul (order, slope)
    sloped = Add (density, steps)
    ordered = Where (valid, sloped, beyond)
    one_axis = Constant <value_ints = [1]> ()
    two_axis = Constant <value_ints = [2]> ()
    count = ReduceSum <keepdims = 1> (present, one_axis)
    portion = Mul (count, share_weak)
    portion_half = Add (portion, half)
    quota = Floor (portion_half)
    mine = Unsqueeze (ordered, two_axis)
    others = Unsqueeze (ordered, one_axis)
    lower = Less (others, mine)
    lower_count = Cast <to = 1> (lower)
    rank = ReduceSum <keepdims = 0> (lower_count, two_axis)
    weak_by_ratio = Less (rank, quota)
"""

_WEAK_BY_THRESHOLD = """
    edge = Constant <value_float: float = @threshold> ()
    weak_by_threshold = Less (density, edge)
"""

_SIMILARITY_TOP_K = """
<domain: "{domain}", opset_import: ["" : {opset}]>
SimilarityTopK <k> (queries, keys, density, valid, query_weight, key_weight)
    => (weights, indices, margin)
{{
    floor = Constant <value = float {{$DENSITY_FLOOR}}> ()
    slope = Constant <value = float {{$SIMILARITY_SLOPE}}> ()
    absent = Constant <value = float {{$ABSENT}}> ()
    edge = Constant <value = float {{$EXISTS}}> ()
    zero = Constant <value = float {{0.0}}> ()
    none = Constant <value = int64 {{-1}}> ()
    second = Constant <value = int64 {{1}}> ()
    i0 = Constant <value_ints = [0]> ()
    i1 = Constant <value_ints = [1]> ()
    i2 = Constant <value_ints = [2]> ()
    i00000 = Constant <value_ints = [0, 0, 0, 0, 0]> ()

    projected_queries = MatMul (queries, query_weight)
    projected_keys = MatMul (keys, key_weight)
    transposed_keys = Transpose <perm = [0, 2, 1]> (projected_keys)
    dots = MatMul (projected_queries, transposed_keys)

    present = Cast <to = 1> (valid)
    order = CumSum (present, second)
    steps = Mul (order, slope)
    floored = Max (density, floor)
    logs = Log (floored)
    sloped = Sub (logs, steps)
    prior = Where (valid, sloped, absent)
    prior_row = Unsqueeze (prior, i1)
    similarity = Add (dots, prior_row)

    k_scalar = Constant <value_int: int = @k> ()
    k_one = Unsqueeze (k_scalar, i0)
    fetched = Add (k_one, i1)
    pads = Concat <axis = 0> (i00000, fetched)
    padded = Pad (similarity, pads, absent)
    values, picks = TopK <axis = 2, largest = 1, sorted = 1> (padded, fetched)

    best = Slice (values, i0, k_one, i2)
    best_picks = Slice (picks, i0, k_one, i2)
    exists = Greater (best, edge)
    weights = Softmax <axis = -1> (best)
    indices = Where (exists, best_picks, none)
    first = Slice (values, i0, i1, i2)
    runner_up = Slice (values, i1, i2, i2)
    gap = Sub (first, runner_up)
    has_runner_up = Greater (runner_up, edge)
    margin_column = Where (has_runner_up, gap, zero)
    margin = Squeeze (margin_column, i2)
}}
"""

_ROUTE_TOKENS = """
<domain: "{domain}", opset_import: ["" : {opset}]>
RouteTokens <merge> (tokens, sources, weights, indices, gate, down, up{inputs}) => (routed)
{{
    first = Constant <value = int64 {{0}}> ()
    i2 = Constant <value_ints = [2]> ()
    i3 = Constant <value_ints = [3]> ()

    values = MatMul (sources, down)
    safe = Max (indices, first)
    at = Unsqueeze (safe, i3)
    matched = GatherND <batch_dims = 1> (values, at)
    shares = Unsqueeze (weights, i3)
    weighted = Mul (shares, matched)
    context = ReduceSum <keepdims = 0> (weighted, i2)
    {update}
    strength = Unsqueeze (gate, i2)
    step = Mul (strength, update)
    routed = Add (tokens, step)
}}
"""

# TensorRT wants as many inputs on a node as its function has: trailing optional ones are declared only where used.
_MERGE_INPUTS = {
    "add": "",
    "concat": ", merge_weight, normalized",
    "interpolate": ", merge_weight",
}
_MERGES = {
    "add": """
    update = MatMul (context, up)
""",
    "concat": """
    own_context = MatMul (normalized, merge_weight)
    joint = Add (context, own_context)
    update = MatMul (joint, up)
""",
    "interpolate": """
    target = MatMul (context, up)
    distance = Sub (target, tokens)
    update = Mul (distance, merge_weight)
""",
}


def function_protos(config: RouterConfig | None = None) -> list[onnx.FunctionProto]:
    """Return the bodies of `TokenInformation`, `SimilarityTopK` and `RouteTokens`, in opset 21.

    ONNX functions have no branch on an attribute, so the bodies are those for one config's `density`, `merge`,
    `ratio` and `threshold`; the numbers among them are read from the node's attributes.

    Args:
        config: Settings of the router; None for the defaults.
    """
    from onnx import parser

    from moir_edge.router.config import RouterConfig

    config = config or RouterConfig()
    route_tokens = _ROUTE_TOKENS.format(
        domain=DOMAIN,
        opset=OPSET,
        inputs=_MERGE_INPUTS[config.merge],
        update=_MERGES[config.merge].strip(),
    )
    lookup = _SIMILARITY_TOP_K.format(domain=DOMAIN, opset=OPSET)
    texts = (_token_information(config), lookup, route_tokens)
    return [parser.parse_function(spelled(text)) for text in texts]


def _token_information(config: RouterConfig) -> str:
    """Write the body of TokenInformation for the settings in use."""
    rules = {"weak_by_ratio": _WEAK_BY_RATIO, "weak_by_threshold": _WEAK_BY_THRESHOLD}
    if config.ratio is None:
        del rules["weak_by_ratio"]
    if config.threshold is None:
        del rules["weak_by_threshold"]
    names = list(rules) or ["valid"]
    either = f"Or ({names[0]}, {names[1]})" if len(names) == 2 else f"Identity ({names[0]})"
    head = ", weight, bias" if config.density == "confidence" else ""
    return f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
TokenInformation <density_kind, ratio, threshold> (tokens, valid, scale, shift{head})
    => (density, gate, normalized)
{{
    last = Constant <value_ints = [-1]> ()
    one = Constant <value = float {{1.0}}> ()
    normalized = LayerNormalization <axis = -1, epsilon = $LAYER_NORM_EPSILON> (tokens, scale, shift)
    present = Cast <to = 1> (valid)
    {(_CONFIDENCE if config.density == "confidence" else _ENTROPY).strip()}
    density = Mul (raw, present)
    {"".join(rules.values()).strip()}
    weak = {either}
    weak_present = And (weak, valid)
    opened = Cast <to = 1> (weak_present)
    lack = Sub (one, density)
    gate = Mul (opened, lack)
}}
"""
