"""The four charts of the page: trade-off, recovery by task, time to first token by component, and its spread."""

from __future__ import annotations

from collections.abc import Sequence

from moir_edge.charts.axes import (
    AXIS,
    LEFT,
    RIGHT,
    WIDTH,
    grid_x,
    grid_y,
    label,
    line,
    row_name,
    series,
)
from moir_edge.charts.dots import Dot, DotRow, dot_chart
from moir_edge.charts.svg import Scale, draw, element, escaped, marker, padded_range, time_scale
from moir_edge.evaluation.comparison.schema import CandidateReport
from moir_edge.evaluation.report.text import interval_text, milliseconds

__all__ = ["component_chart", "recovery_chart", "spread_chart", "trade_off_chart"]

ROW = 46
TOTAL = 84

Candidates = Sequence[CandidateReport]


def trade_off_chart(candidates: Candidates) -> str | None:
    """Draw median time to first token against recovery; None where nothing was scored."""
    points = [
        (at, one, 100 * one.recovery.value if one.recovery else 100.0)
        for at, one in enumerate(candidates)
        if at == 0 or one.recovery
    ]
    if len(points) == 1:
        return None
    height, top, bottom = 330, 20, 330 - AXIS
    edges = [edge for _, one, _ in points for edge in (one.ttft.p10, one.ttft.p90)]
    x = time_scale(edges, 70, WIDTH - RIGHT)
    y = Scale(*_recovery_range(candidates), bottom, top)
    parts = [grid_x(x, top, bottom, "ms"), grid_y(y, 70, WIDTH - RIGHT, base=100)]
    parts += [
        label(WIDTH / 2 + 30, height - 6, f"time to first token, median and p10–p90 ({_ms(x)})")
    ]
    parts += [label(16, height / 2 - 10, "recovery (%)", rotate=True)]
    for at, one, percent in points:
        parts.append(line(x(one.ttft.p10), y(percent), x(one.ttft.p90), y(percent), series(at)))
        if at and one.recovery:
            at_x = x(one.ttft.median)
            parts.append(line(at_x, y(one.recovery.low), at_x, y(one.recovery.high), series(at)))
    for at, one, percent in points:
        tip = f"{one.name}: {milliseconds(one.ttft.median)}, {percent:.1f} %"
        parts.append(marker(at, x(one.ttft.median), y(percent), 7, tip))
    description = "; ".join(
        f"{o.name} {milliseconds(o.ttft.median)}, {p:.1f} %" for _, o, p in points
    )
    return draw("Latency against accuracy", description, WIDTH, height, *parts)


def recovery_chart(candidates: Candidates) -> str | None:
    """Draw the recovery of every task with its interval; None where nothing was scored."""
    tasks = [task for task, own in candidates[0].tasks.items() if own.rows]
    others = list(enumerate(candidates))[1:]
    if not tasks or not any(one.recovery for _, one in others):
        return None
    rows = [
        DotRow(
            name=task,
            detail=candidates[0].tasks[task].metric,
            dots=tuple(_recovery_dot(at, one, task) for at, one in others),
        )
        for task in tasks
    ]
    return dot_chart(
        "Recovery by task",
        rows,
        _recovery_range(candidates),
        base=100,
        caption="score / reference's score, 95 % interval (%)",
    )


def _recovery_dot(at: int, one: CandidateReport, task: str) -> Dot | None:
    recovery = one.tasks[task].recovery if task in one.tasks else None
    if recovery is None:
        return None
    value, low, high = (100 * part for part in (recovery.value, recovery.low, recovery.high))
    tip = f"{one.name}, {task}: {interval_text(recovery)}"
    return Dot(series=at, value=value, low=low, high=high, tip=tip)


def component_chart(candidates: Candidates) -> str:
    """Draw the share of each part in the time to first token as stacked bars, with the median time beside them."""
    height = ROW * len(candidates) + AXIS + 10
    x = Scale(0.0, 100.0, LEFT, WIDTH - RIGHT - TOTAL)
    parts = [grid_x(x, 10, height - AXIS, "%")]
    described = []
    for row, one in enumerate(candidates):
        y = 10 + ROW * row + 10
        bar, tips = _stacked(one, x, y)
        parts += [row_name(y + 13, one.name, one.precision), *bar]
        ttft = milliseconds(one.ttft.median)
        parts.append(label(WIDTH - RIGHT, y + 18, ttft, anchor="end", strong=True))
        described += tips
    parts.append(
        label(
            (LEFT + WIDTH - TOTAL) / 2,
            height - 6,
            "share of the time over all samples (%), median in bold",
        )
    )
    return draw("Where the time to first token goes", "; ".join(described), WIDTH, height, *parts)


def _stacked(one: CandidateReport, x: Scale, y: float) -> tuple[list[str], list[str]]:
    """Return the bar's pieces and what each says."""
    total = sum(part.mean for part in one.components.values())  # means add up, medians do not
    pieces, tips, start = [], [], 0.0
    for name, part in one.components.items():
        share = 100 * part.mean / total
        tips.append(f"{one.name}, {name}: {share:.1f} % (median {milliseconds(part.median)})")
        place = {"x": x(start), "y": y, "width": x(start + share) - x(start), "height": 26}
        title = element("title", escaped(tips[-1]))
        pieces.append(element("rect", title, class_=f"bar p-{name}", **place))
        start += share
    return pieces, tips


def spread_chart(candidates: Candidates) -> str:
    """Draw every sample of the time to first token, with median and p10–p90."""
    height = ROW * len(candidates) + AXIS + 10
    x = time_scale([ms for one in candidates for ms in one.ttft.samples], LEFT, WIDTH - RIGHT)
    parts = [grid_x(x, 10, height - AXIS, "ms")]
    described = []
    for row, one in enumerate(candidates):
        middle = 10 + ROW * (row + 0.5)
        parts.append(row_name(middle, one.name, f"{len(one.ttft.samples)} samples"))
        box = {"x": x(one.ttft.p10), "width": x(one.ttft.p90) - x(one.ttft.p10)}
        parts.append(element("rect", y=middle - 13, height=26, class_=f"box {series(row)}", **box))
        for at, sample in enumerate(one.ttft.samples):
            # a fixed pattern instead of chance keeps the page the same from run to run
            offset = (at * 7 % 19 - 9) * 1.1
            parts.append(
                element(
                    "circle", cx=x(sample), cy=middle + offset, r=1.8, class_=f"dot {series(row)}"
                )
            )
        tip = f"{one.name}: median {milliseconds(one.ttft.median)}, p10–p90 {milliseconds(one.ttft.p10)} to {milliseconds(one.ttft.p90)}"
        parts.append(
            line(
                x(one.ttft.median),
                middle - 15,
                x(one.ttft.median),
                middle + 15,
                f"median {series(row)}",
            )
        )
        described.append(tip)
    parts.append(
        label((LEFT + WIDTH) / 2, height - 6, f"time to first token, every sample ({_ms(x)})")
    )
    return draw("Spread of the time to first token", "; ".join(described), WIDTH, height, *parts)


def _recovery_range(candidates: Candidates) -> tuple[float, float]:
    values = [100.0]
    for one in candidates[1:]:
        parts = [one.recovery, *(figures.recovery for figures in one.tasks.values())]
        values += [edge for part in parts if part for edge in (100 * part.low, 100 * part.high)]
    return padded_range([min(*values, 98.0), max(*values, 101.0)], 0.08)


def _ms(x: Scale) -> str:
    return "ms, logarithmic" if x.logarithmic else "ms"
