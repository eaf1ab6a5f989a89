"""The whole router of each kind in plain numpy, sample by sample, on top of the reference ops."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from moir_edge.ops.reference import (
    BoolArray,
    FloatArray,
    IntArray,
    route_tokens,
    similarity_top_k,
    token_information,
)
from moir_edge.ops.reference_pooled import route_pooled
from moir_edge.router.constants import GATE_GAIN

__all__ = ["RoutedArrays", "route"]


class RoutedArrays(NamedTuple):
    """Outputs of the whole router; T = image_tokens + text_tokens, as `moir_edge.router.RouterOutput` has them."""

    inputs_embeds: FloatArray
    scores: FloatArray
    indices: IntArray
    margin: FloatArray
    gate: FloatArray


def route(
    weights: dict[str, npt.NDArray[Any]],
    config: Any,
    inputs_embeds: FloatArray,
    image_positions: IntArray,
    text_positions: IntArray,
    text_mask: BoolArray,
) -> RoutedArrays:
    """Run the whole router of the config's kind as its torch module does in evaluation mode.

    Args:
        weights: The router's state dict as float32 arrays.
        config: The router's `RouterConfig`.
        inputs_embeds: (batch, sequence, hidden).
        image_positions: (batch, image_tokens), negative where none.
        text_positions: (batch, text_tokens).
        text_mask: (batch, text_tokens).
    """
    outputs = inputs_embeds.copy()
    sizes = {"image": image_positions.shape[1], "text": text_positions.shape[1]}
    batch, total = len(inputs_embeds), sum(sizes.values())
    scores, margin, gate = (np.zeros((batch, total), np.float32) for _ in range(3))
    indices = np.full((batch, total, config.sources), -1, np.int64)
    route_sample = _route_tokens if config.kind == "token" else route_pooled
    for sample in range(batch):
        places = {
            "image": image_positions[sample][image_positions[sample] >= 0],
            "text": text_positions[sample][text_mask[sample]],
        }
        columns = {
            "image": np.flatnonzero(image_positions[sample] >= 0),
            "text": sizes["image"] + np.flatnonzero(text_mask[sample]),
        }
        rows = {side: inputs_embeds[sample, at] for side, at in places.items()}
        if any(not row.size or not np.isfinite(row).all() for row in rows.values()):
            continue
        found = route_sample(weights, config, rows)
        for side, other in (("image", "text"), ("text", "image")):
            at = columns[side]
            routed, picks, side_margin, side_gate, side_scores = found[side]
            outputs[sample, places[side]] = routed
            scores[sample, at], gate[sample, at] = side_scores, side_gate
            for column, row, step, strength in zip(at, picks, side_margin, side_gate, strict=True):
                if strength > 0:
                    indices[sample, column] = np.where(row >= 0, places[other][row], -1)
                    margin[sample, column] = step
    return RoutedArrays(outputs, scores, indices, margin, gate)


def _route_tokens(
    weights: dict[str, npt.NDArray[Any]], config: Any, rows: dict[str, FloatArray]
) -> dict[str, tuple[Any, ...]]:
    """Route one sample: per side the rows (tokens, hidden), picks, margin, gate and scores."""
    present = {side: np.ones((1, len(row)), bool) for side, row in rows.items()}
    information = {}
    for side, row in rows.items():
        head = weights.get(f"{side}.head.weight")
        information[side] = token_information(
            row[None],
            present[side],
            weights[f"{side}.norm.weight"],
            weights[f"{side}.norm.bias"],
            None if head is None else head.T,
            weights.get(f"{side}.head.bias"),
            density=config.density,
            ratio=config.ratio,
            threshold=config.threshold,
        )
    opened = config.enriched_sides
    if config.direction == "auto":
        means = {side: information[side][0].mean(dtype=np.float32) for side in rows}
        opened = ("image",) if means["text"] >= means["image"] else ("text",)
    result: dict[str, tuple[Any, ...]] = {}
    for side, other in (("image", "text"), ("text", "image")):
        scores, gate, normalized = information[side]
        if config.learned_gate and side in opened:
            edge = 1 + GATE_GAIN * weights[f"{side}.gate_edge"]
            slope = np.exp(GATE_GAIN * weights[f"{side}.gate_slope"])
            gate = np.clip(slope * (edge - scores), 0, 1).astype(np.float32)
        if side not in opened:
            none = np.full((len(rows[side]), config.top_k), -1)
            zeros = np.zeros(len(rows[side]), np.float32)
            result[side] = (rows[side], none, zeros, zeros, scores[0])
            continue
        shares, picks, margin = similarity_top_k(
            normalized,
            information[other][2],
            information[other][0],
            present[other],
            (weights[f"{side}.query.weight"].T / np.sqrt(config.rank)).astype(np.float32),
            weights[f"{other}.key.weight"].T,
            k=config.top_k,
        )
        merge_weight = None
        if config.merge == "concat":
            merge_weight = weights[f"{side}.own.weight"].T
        elif config.merge == "interpolate":
            merge_weight = np.tanh(weights[f"{side}.blend"])
        routed = route_tokens(
            rows[side][None],
            rows[other][None],
            shares,
            picks,
            gate,
            weights[f"{other}.down.weight"].T,
            weights[f"{side}.up.weight"].T,
            merge_weight,
            normalized,
            merge=config.merge,
        )
        result[side] = (routed[0], picks[0], margin[0], gate[0], scores[0])
    return result
