"""The diagnosis as tables, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from moir_edge.evaluation.diagnosis.schema import (
    CLEAN,
    CandidateDiagnosis,
    ConditionFigures,
    DiagnosisReport,
    LayerAttention,
)
from moir_edge.evaluation.diagnosis.text import (
    change_text,
    condition_detail,
    condition_name,
    number_text,
)
from moir_edge.evaluation.diagnosis.values import OVERALL
from moir_edge.evaluation.report.terminal import print_figures
from moir_edge.evaluation.report.text import (
    NOT_MEASURED,
    data_title,
    interval_text,
    print_line,
    print_notices,
    score_text,
)

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["change_rows", "figure_rows", "layer_rows", "print_diagnosis", "task_rows"]

Cell = Callable[[CandidateDiagnosis], str]
TableRows = list[tuple[str, list[str]]]

_CHANGES = {
    "share_image": "share of images",
    "dominance": "dominance",
    "perceptual_image": "perceptual, image",
    "perceptual_text": "perceptual, text",
}


def figure_rows(report: DiagnosisReport) -> TableRows:
    """Return the main figures as (name, one cell per source): scores over all tasks, shares, perceptual scores, MDI."""
    columns: list[tuple[str, Cell]] = [
        (condition_title(one), _overall(one.label)) for one in report.candidates[0].conditions
    ]
    columns += [
        ("share of images", lambda one: interval_text(one.shares[OVERALL].share_image)),
        ("share of text", lambda one: interval_text(one.shares[OVERALL].share_text)),
        ("dominance", lambda one: interval_text(one.shares[OVERALL].dominance)),
    ]
    if report.settings.perceptual:
        columns += [
            ("perceptual, image", lambda one: interval_text(one.perceptual[OVERALL].image)),
            ("perceptual, text", lambda one: interval_text(one.perceptual[OVERALL].text)),
        ]
    columns += [(f"MDI layer {layer}", _mdi(layer)) for layer in _shown(report)]
    return [(name, [cell(one) for one in report.candidates]) for name, cell in columns]


def task_rows(report: DiagnosisReport) -> TableRows:
    """Return the score of every task under every condition, in the task's own scale."""
    first = report.candidates[0]
    return [
        (
            f"{condition_title(one)}: {task} {figures.metric.removeprefix('VQA ')}",
            [_score(source, one.label, task) for source in report.candidates],
        )
        for one in first.conditions
        for task, figures in one.tasks.items()
    ]


def layer_rows(source: CandidateDiagnosis) -> list[tuple[LayerAttention, list[str]]]:
    """Return the shown layers of a source with MDI, AEI of text and image, and attention mass on both, as cells."""
    if source.attention is None:
        return []
    return [
        (
            layer,
            [
                number_text(layer.mdi),
                number_text(layer.aei_text),
                number_text(layer.aei_image),
                f"{100 * layer.mass_text:.1f} %",
                f"{100 * layer.mass_image:.1f} %",
            ],
        )
        for layer in (source.attention.layers[at] for at in source.attention.shown)
    ]


def change_rows(report: DiagnosisReport) -> TableRows:
    """Return the differences to the first source over all tasks, in points; one cell per further source."""
    first, *others = report.candidates
    names = {one.label: condition_title(one) for one in first.conditions} | _CHANGES
    rows = [
        (title, [change_text(one.changes[OVERALL].get(name)) for one in others])
        for name, title in names.items()
    ]
    return [row for row in rows if any(cell != NOT_MEASURED for cell in row[1])]


def condition_title(condition: ConditionFigures) -> str:
    """Return a condition in a few words, with the strength that was applied."""
    if condition.label == CLEAN or condition.strength is None:
        return condition_name(condition)
    return f"{condition_name(condition)}, {condition_detail(condition)}"


def print_diagnosis(report: DiagnosisReport, console: Console) -> None:
    """Print the main figures, the scores by task, and what changed from the first source to the others.

    Args:
        report: The diagnosis.
        console: Where to print.
    """
    names = [one.name for one in report.candidates]
    print_notices(report.notices, console)
    print_line(data_title(report.data), console)
    print_figures(console, "All tasks (95 % interval)", names, figure_rows(report))
    print_figures(console, "By task", names, task_rows(report))
    if len(report.candidates) > 1:
        print_figures(
            console, f"Difference to {names[0]}, in points", names[1:], change_rows(report)
        )
    for source in report.candidates:
        for what, reason in _reasons(source):
            print_line(f"{source.name}: {what} not measured: {reason}", console)


def _reasons(source: CandidateDiagnosis) -> list[tuple[str, str]]:
    """Return which figures over all tasks are missing, and why."""
    perceptual = source.perceptual.get(OVERALL)
    reasons = {
        "shares": source.shares[OVERALL].reason,
        "perceptual scores": perceptual.reason if perceptual else None,
        "MDI": source.attention_reason,
        "routing maps": source.routing_reason if source.has_router else None,
    }
    return [(what, reason) for what, reason in reasons.items() if reason is not None]


def _overall(name: str) -> Cell:
    return lambda one: interval_text(one.condition(name).overall)


def _mdi(layer: int) -> Cell:
    def cell(source: CandidateDiagnosis) -> str:
        attention = source.attention
        if attention is None or layer not in attention.shown:
            return NOT_MEASURED
        return number_text(attention.layers[layer].mdi)

    return cell


def _score(source: CandidateDiagnosis, name: str, task: str) -> str:
    figures = source.condition(name).tasks[task]
    digits = 2 if figures.metric == "CIDEr-D" else 1
    return f"{score_text(figures)} ({figures.low:.{digits}f}–{figures.high:.{digits}f})"


def _shown(report: DiagnosisReport) -> list[int]:
    return sorted({at for one in report.candidates if one.attention for at in one.attention.shown})
