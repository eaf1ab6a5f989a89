"""The charts of the page: scores under degradation, shares, perceptual scores, and dominance by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from moir_edge.charts.axes import AXIS, RIGHT, WIDTH, grid_x, grid_y, label, line, series
from moir_edge.charts.dots import Dot, DotRow, dot_chart
from moir_edge.charts.svg import Scale, draw, marker, padded_range
from moir_edge.evaluation.diagnosis.schema import (
    CandidateDiagnosis,
    DiagnosisReport,
    LayerAttention,
)
from moir_edge.evaluation.diagnosis.text import condition_detail, condition_name
from moir_edge.evaluation.diagnosis.values import OVERALL
from moir_edge.evaluation.report.text import interval_text
from moir_edge.metrics.records import Interval

__all__ = ["layer_chart", "perceptual_chart", "score_chart", "share_chart"]

Pick = Callable[[CandidateDiagnosis], Interval | None]


def score_chart(report: DiagnosisReport) -> str:
    """Draw the mean score of every source on clean rows and under each degradation."""
    rows = [
        _row(report, condition_name(one), condition_detail(one), _overall_of(one.label))
        for one in report.candidates[0].conditions
    ]
    caption = "mean score over the tasks, 95 % interval (%)"
    return dot_chart("Scores under degradation", rows, (0.0, 100.0), base=None, caption=caption)


def share_chart(report: DiagnosisReport) -> str | None:
    """Draw the share of the images by task; None where no source has one."""
    scopes = report.candidates[0].shares
    rows = [
        _row(report, _scope_name(scope), _rows_of(report, scope), _share_of(scope))
        for scope in scopes
    ]
    span = _span(rows, 0.0, 100.0)
    if span is None:
        return None
    caption = "images' Shapley share (%); at 50 both modalities count alike"
    return dot_chart("Shapley share of the images", rows, span, base=50, caption=caption)


def perceptual_chart(report: DiagnosisReport) -> str | None:
    """Draw the perceptual scores by task and modality; None where there are none."""
    rows = [
        _row(report, _scope_name(scope), f"{side} permuted", _perceptual_of(scope, side))
        for scope in report.candidates[0].perceptual
        for side in ("image", "text")
    ]
    span = _span(rows, 0.0, 100.0)
    if span is None:
        return None
    caption = "score lost when the modality is another row's (% of the full score)"
    return dot_chart("Perceptual scores", rows, span, base=0, caption=caption)


def layer_chart(report: DiagnosisReport) -> str | None:
    """Draw the modality dominance index by layer; None where no source has attention."""
    measured = [(at, one.attention) for at, one in enumerate(report.candidates) if one.attention]
    if not measured:
        return None
    height, top, left = 330, 20, 70
    edges = [
        edge
        for _, one in measured
        for _, mdi in _dominance(one.layers)
        for edge in (mdi.low, mdi.high)
    ]
    last = max(len(one.layers) for _, one in measured) - 1
    x = Scale(-0.3, last + 0.3, left, WIDTH - RIGHT)
    span = (min(*edges, 0.9) / 1.1, max(*edges, 1.1) * 1.1)
    y = Scale(*span, height - AXIS, top, logarithmic=True)
    parts = [_layer_ticks(x, last, height), grid_y(y, left, WIDTH - RIGHT, base=1)]
    described = []
    for at, attention in measured:
        name = report.candidates[at].name
        parts += _layer_line(at, attention.layers, x, y, name)
        described += [
            f"{name}, layer {layer}: MDI {mdi.value:.2f}"
            for layer, mdi in _dominance(attention.layers)
        ]
    parts.append(label((left + WIDTH) / 2, height - 6, "layer of the language model"))
    parts.append(label(16, height / 2 - 10, "MDI, logarithmic", rotate=True))
    return draw("Modality dominance by layer", "; ".join(described), WIDTH, height, *parts)


def _layer_line(
    at: int, layers: Sequence[LayerAttention], x: Scale, y: Scale, name: str
) -> list[str]:
    """Return intervals, the line through the values and their markers, in this order."""
    points = [(x(float(layer)), layer, mdi) for layer, mdi in _dominance(layers)]
    parts = [line(px, y(mdi.low), px, y(mdi.high), series(at)) for px, _, mdi in points]
    parts += [
        line(left, y(mdi.value), right, y(other.value), series(at))
        for (left, _, mdi), (right, _, other) in pairwise(points)
    ]
    return parts + [
        marker(at, px, y(mdi.value), 5, f"{name}, layer {layer}: {mdi.value:.2f}")
        for px, layer, mdi in points
    ]


def _dominance(layers: Sequence[LayerAttention]) -> list[tuple[int, Interval]]:
    """Return number and index of the layers that have one."""
    return [(one.layer, one.mdi) for one in layers if one.mdi is not None]


def _layer_ticks(x: Scale, last: int, height: int) -> str:
    """Return whole layer numbers only, however few layers there are."""
    if last > 6:
        return grid_x(x, 20, height - AXIS, "")
    return "".join(
        line(x(float(layer)), 20, x(float(layer)), height - AXIS, "grid")
        + label(x(float(layer)), height - AXIS + 19, str(layer))
        for layer in range(last + 1)
    )


def _row(report: DiagnosisReport, name: str, detail: str, pick: Pick) -> DotRow:
    dots = tuple(_dot(at, one.name, name, pick(one)) for at, one in enumerate(report.candidates))
    return DotRow(name=name, detail=detail, dots=dots)


def _dot(at: int, source: str, row: str, figure: Interval | None) -> Dot | None:
    if figure is None:
        return None
    return Dot(
        series=at,
        value=100 * figure.value,
        low=100 * figure.low,
        high=100 * figure.high,
        tip=f"{source}, {row}: {interval_text(figure)}",
    )


def _overall_of(name: str) -> Pick:
    return lambda one: one.condition(name).overall


def _share_of(scope: str) -> Pick:
    return lambda one: one.shares[scope].share_image


def _perceptual_of(scope: str, side: str) -> Pick:
    return lambda one: getattr(one.perceptual[scope], side)


def _span(rows: Sequence[DotRow], least: float, most: float) -> tuple[float, float] | None:
    """Return an axis that holds [least, most] and every interval; None without a dot."""
    edges = [edge for row in rows for dot in row.dots if dot for edge in (dot.low, dot.high)]
    if not edges:
        return None
    low, high = min(*edges, least), max(*edges, most)
    if math.isclose(low, least) and math.isclose(high, most):
        return least, most
    return padded_range([low, high], 0.05)


def _scope_name(scope: str) -> str:
    return "all tasks" if scope == OVERALL else scope


def _rows_of(report: DiagnosisReport, scope: str) -> str:
    tasks = report.data.tasks if report.data else {}
    return f"{sum(tasks.values()) if scope == OVERALL else tasks[scope]} rows"
