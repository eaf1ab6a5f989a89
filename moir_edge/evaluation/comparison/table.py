"""The comparison as tables in the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from moir_edge.evaluation.comparison.schema import CandidateReport, ComparisonReport
from moir_edge.evaluation.report.terminal import print_figures
from moir_edge.evaluation.report.text import (
    NOT_MEASURED,
    bytes_text,
    data_title,
    interval_text,
    joules,
    milliseconds,
    print_gates,
    print_notices,
    ratio_text,
    score_text,
)
from moir_edge.printable import single_line

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["figure_rows", "print_report"]

Cell = Callable[[CandidateReport], str]


def figure_rows(report: ComparisonReport) -> list[tuple[str, list[str]]]:
    """Return the figures as (name, one cell per candidate), the order of every table."""
    reference = report.reference
    tasks = list(dict.fromkeys(task for one in report.candidates for task in one.tasks))
    columns: list[tuple[str, Cell]] = [
        ("precision", lambda one: one.precision),
        ("weights", lambda one: bytes_text(one.weights_bytes)),
        ("peak memory", lambda one: bytes_text(one.peak_memory_bytes)),
        ("TTFT median", lambda one: milliseconds(one.ttft.median)),
        ("TTFT p90", lambda one: milliseconds(one.ttft.p90)),
        ("TTFT ratio", lambda one: _against(one, reference, ratio_text(one.ttft_ratio))),
        ("TPOT median", lambda one: milliseconds(one.tpot.median) if one.tpot else NOT_MEASURED),
        (
            "tokens/s",
            lambda one: _number(one.decode_rate.median if one.decode_rate else None),
        ),
        *_energy(report),
        *((f"{task} {_metric(report, task)}", _task_cell(task)) for task in tasks),
        ("recovery", lambda one: _against(one, reference, interval_text(one.recovery))),
        ("same tokens", lambda one: _against(one, reference, _tokens(one))),
        ("router indices", lambda one: _against(one, reference, _routing(one))),
        ("router overhead", lambda one: _overhead(one)),
    ]
    return [(name, [cell(one) for one in report.candidates]) for name, cell in columns]


def _energy(report: ComparisonReport) -> list[tuple[str, Cell]]:
    """Return the row of the energy; none without a sensor."""
    if all(one.energy is None for one in report.candidates):
        return []
    return [
        ("energy/answer", lambda one: joules(one.energy.median) if one.energy else NOT_MEASURED)
    ]


def print_report(report: ComparisonReport, console: Console) -> None:
    """Print the figures and the gates.

    Args:
        report: The report.
        console: Where to print.
    """
    print_notices(report.notices, console)
    head = [
        f"{single_line(one.name)}\n(reference)"
        if one is report.reference
        else single_line(one.name)
        for one in report.candidates
    ]
    rows = [
        (name, cells)
        for name, cells in figure_rows(report)
        if any(cell != NOT_MEASURED for cell in cells)
    ]
    print_figures(console, data_title(report.data), head, rows)
    print_gates(report.gates, console)


def _task_cell(task: str) -> Cell:
    return lambda one: score_text(one.tasks[task]) if task in one.tasks else NOT_MEASURED


def _metric(report: ComparisonReport, task: str) -> str:
    metric = next(one.tasks[task].metric for one in report.candidates if task in one.tasks)
    return metric.removeprefix("VQA ")


def _against(one: CandidateReport, reference: CandidateReport, text: str) -> str:
    return NOT_MEASURED if one is reference else text


def _tokens(one: CandidateReport) -> str:
    return f"{100 * one.token_agreement.identical:.1f} %" if one.token_agreement else NOT_MEASURED


def _routing(one: CandidateReport) -> str:
    if one.routing is None:
        return one.routing_reason or NOT_MEASURED
    return f"{100 * one.routing.index_agreement:.2f} %"


def _overhead(one: CandidateReport) -> str:
    return interval_text(one.router_overhead.overhead if one.router_overhead else None)


def _number(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.1f}"
