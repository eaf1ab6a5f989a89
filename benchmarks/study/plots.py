"""The study's plots as SVG files that stand alone: colours inside, light and dark."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.study.settings import StudySettings
from benchmarks.study.summary import CLEAN, OVERALL, ArmFigures, Spread
from moir_edge.charts.dots import Dot, DotRow, dot_chart
from moir_edge.charts.standalone import stand_alone

__all__ = ["dominance_plot", "score_plot"]


def score_plot(arms: Sequence[ArmFigures], settings: StudySettings) -> str:
    """Draw the overall score of every arm, clean, blurred and with dropped words."""
    conditions = {CLEAN: "clean", settings.blur: "blur", settings.dropout: "word dropout"}
    rows = [
        DotRow(
            name=one.arm.name,
            detail=f"{one.parameters:,} weights" if one.parameters else "nothing trained",
            dots=tuple(
                _dot(at, one.scores[condition][OVERALL], f"{one.arm.name}, {name}", 1.0)
                for at, (condition, name) in enumerate(conditions.items())
            ),
        )
        for one in arms
    ]
    caption = "blue clean, orange blur, green word dropout (%, ± sd)"
    return stand_alone(dot_chart("Scores", rows, _span(rows), base=None, caption=caption))


def dominance_plot(arms: Sequence[ArmFigures]) -> str:
    """Draw the images' Shapley share of every arm."""
    rows = [
        DotRow(
            name=one.arm.name,
            detail=f"dominance {one.dominance.mean:.2f}",
            dots=(_dot(0, one.share_image, f"{one.arm.name}, share of images", 100.0),),
        )
        for one in arms
    ]
    caption = "share of the images (%, ± sd); at 50 both count alike"
    return stand_alone(
        dot_chart("Shares", rows, _span(rows, around=50.0), base=50, caption=caption)
    )


def _dot(series: int, spread: Spread, name: str, factor: float) -> Dot:
    value, deviation = factor * spread.mean, factor * (spread.deviation or 0.0)
    tip = f"{name}: {value:.1f} ± {deviation:.1f} %"
    return Dot(series=series, value=value, low=value - deviation, high=value + deviation, tip=tip)


def _span(rows: Sequence[DotRow], around: float | None = None) -> tuple[float, float]:
    dots = [dot for row in rows for dot in row.dots if dot is not None]
    low, high = min(dot.low for dot in dots), max(dot.high for dot in dots)
    if around is not None:
        low, high = min(low, around), max(high, around)
    return max(0.0, low - 4), min(100.0, high + 4)
