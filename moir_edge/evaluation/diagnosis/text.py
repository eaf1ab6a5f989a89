"""Spell the figures of a diagnosis, alike in the terminal and on the page."""

from __future__ import annotations

from moir_edge.evaluation.diagnosis.schema import CLEAN, CandidateDiagnosis, ConditionFigures
from moir_edge.evaluation.diagnosis.values import OVERALL
from moir_edge.evaluation.report.text import NOT_MEASURED
from moir_edge.metrics.records import Interval

__all__ = [
    "change_text",
    "condition_detail",
    "condition_name",
    "headline",
    "number_text",
]


def number_text(figure: Interval | None) -> str:
    """Return an index as a plain number with its interval."""
    if figure is None:
        return NOT_MEASURED
    return f"{figure.value:.2f} ({figure.low:.2f}–{figure.high:.2f})"


def change_text(figure: Interval | None) -> str:
    """Return a difference of shares or mean scores in points, signed, with its interval."""
    if figure is None:
        return NOT_MEASURED
    value, low, high = (_signed(100 * part) for part in (figure.value, figure.low, figure.high))
    return f"{value} ({low} to {high})"


def condition_name(condition: ConditionFigures) -> str:
    """Return the kind of a degradation, or `clean`."""
    return condition.label.partition("@")[0].partition("=")[0]


def condition_detail(condition: ConditionFigures) -> str:
    """Return the strength that was applied, such as ``"sigma 1.29 px"``."""
    if condition.label == CLEAN:
        return "nothing degraded"
    if condition.strength is None:
        return "all of it"
    low, high = condition.strength
    span = f"{low:.3g}" if low == high else f"{low:.3g}–{high:.3g}"
    return f"{condition.quantity} {span} {condition.unit}".rstrip()


def headline(source: CandidateDiagnosis) -> str:
    """Return one sentence that says which modality a source leans on."""
    shares = source.shares[OVERALL]
    if shares.share_image is None or shares.dominance is None:
        return f"No shares: {shares.reason}."
    leading = shares.share_image.value > 0.5
    share = 100 * (shares.share_image.value if leading else 1 - shares.share_image.value)
    carried = f"{'images carry' if leading else 'text carries'} {share:.0f} % of the score"
    if shares.share_image.low <= 0.5 <= shares.share_image.high:
        return f"No modality clearly dominates: {carried}."
    return f"Leans on the {'images' if leading else 'text'}: {carried}."


def _signed(value: float) -> str:
    rounded = round(value, 1) + 0.0  # no "-0.0"
    return f"{rounded:+.1f}" if rounded else "0.0"
