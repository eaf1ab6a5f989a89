"""The report of `bench` as tables, the same in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moir_edge.evaluation.comparison.schema import COMPONENT_ORDER
from moir_edge.evaluation.opening import NOT_ON_THIS_DEVICE
from moir_edge.evaluation.parity.schema import (
    BenchCandidate,
    BenchReport,
    ComponentParity,
    NumericParity,
    PromptFacts,
    SpeedPair,
    Timing,
)
from moir_edge.evaluation.report.terminal import print_figures
from moir_edge.evaluation.report.text import (
    NOT_MEASURED,
    bytes_text,
    interval_text,
    joules,
    milliseconds,
    print_gates,
    print_line,
    print_notices,
    ratio_text,
)
from moir_edge.finite import NOT_FINITE

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ReportTable", "print_bench", "report_tables"]

Row = tuple[str, list[str]]
TimingCell = Callable[[Timing], str]


@dataclass(frozen=True)
class ReportTable:
    """One table: its title, the heads of its columns after the first, and its rows by name."""

    title: str
    head: list[str]
    rows: list[Row]


def report_tables(report: BenchReport) -> list[ReportTable]:
    """Return every table that has something to show, in their order."""
    names = [one.name for one in report.candidates]
    tables = [ReportTable("Candidates", names, list(_candidate_rows(report)))]
    for facts in report.prompts:
        tables.append(ReportTable(_prompt_title(facts), names, list(_timing_rows(report, facts))))
    compared = [one for one in report.candidates if one.parity is not None]
    if compared:
        title = f"Numbers against {report.reference}, component by component on its inputs"
        head = [
            "precision",
            "prompts",
            "max abs error",
            "cosine",
            "lowest",
            "router indices",
            "same choice",
        ]
        rows = [row for one in compared for row in _component_rows(one)]
        tables.append(ReportTable(title, head, rows))
        title = f"The whole chain against {report.reference}"
        rows = [(one.name, _chain_cells(one.parity)) for one in compared if one.parity]
        tables.append(
            ReportTable(title, ["prompts", "same tokens", "router indices", "matched cosine"], rows)
        )
    if report.pairs:
        rows = [_pair_row(pair) for pair in report.pairs]
        tables.append(
            ReportTable(
                "Times in turns, as ratios (95 % interval)", ["what differs", "TTFT", "TPOT"], rows
            )
        )
    return tables


def print_bench(report: BenchReport, console: Console) -> None:
    """Print the tables, what could not be measured, and the gates.

    Args:
        report: The report.
        console: Where to print.
    """
    print_notices(report.notices, console)
    for one in report_tables(report):
        print_figures(console, one.title, one.head, one.rows)
    for candidate in report.candidates:
        if candidate.reason is not None:
            print_line(f"{candidate.name}: {candidate.reason}", console)
    print_gates(report.gates, console)


def _candidate_rows(report: BenchReport) -> Iterator[Row]:
    cells: dict[str, Callable[[BenchCandidate], str | None]] = {
        "precision": lambda one: one.precision,
        "target": lambda one: one.target,
        "runs on": lambda one: one.backend,
        "weights": lambda one: None if one.weights_bytes is None else bytes_text(one.weights_bytes),
        "peak memory": lambda one: (
            None if one.peak_memory_bytes is None else bytes_text(one.peak_memory_bytes)
        ),
        "router overhead": lambda one: interval_text(one.router.overhead) if one.router else None,
    }
    for name, cell in cells.items():
        yield name, [_or_not_here(one, cell(one)) for one in report.candidates]


def _or_not_here(candidate: BenchCandidate, text: str | None) -> str:
    if text is not None:
        return text
    return NOT_MEASURED if candidate.reason is None else NOT_ON_THIS_DEVICE


def _prompt_title(facts: PromptFacts) -> str:
    images, tokens = (_span(*span) for span in (facts.images, facts.tokens))
    return f"Latency, {facts.label}: {images} image(s), {tokens} prompt tokens"


def _span(least: int, most: int) -> str:
    return str(least) if least == most else f"{least}–{most}"


def _timing_rows(report: BenchReport, facts: PromptFacts) -> Iterator[Row]:
    timings = [
        next((one for one in candidate.timings if one.prompt == facts.label), None)
        for candidate in report.candidates
    ]
    present = {name for one in timings if one for name in one.components}
    cells: dict[str, TimingCell] = {
        "TTFT median": lambda one: milliseconds(one.ttft.median),
        "TTFT p90": lambda one: milliseconds(one.ttft.p90),
        **{f"  {part}": _part(part) for part in COMPONENT_ORDER if part in present},
        "TPOT median": lambda one: milliseconds(one.tpot.median) if one.tpot else NOT_MEASURED,
    }
    if any(one is not None and one.energy is not None for one in timings):
        cells["energy/answer"] = lambda one: (
            joules(one.energy.median) if one.energy else NOT_MEASURED
        )
    for name, cell in cells.items():
        yield name, [NOT_ON_THIS_DEVICE if one is None else cell(one) for one in timings]


def _part(name: str) -> TimingCell:
    return lambda one: (
        milliseconds(one.components[name].median) if name in one.components else NOT_MEASURED
    )


def _component_rows(candidate: BenchCandidate) -> Iterator[Row]:
    for one in candidate.parity.components if candidate.parity else ():
        yield f"{candidate.name}: {one.component}", _component_cells(one)


def _component_cells(one: ComponentParity) -> list[str]:
    return [
        one.precision,
        str(one.prompts),
        NOT_FINITE if one.max_abs_error is None else f"{one.max_abs_error:.2e}",
        NOT_FINITE if one.cosine is None else f"{one.cosine:.6f}",
        NOT_FINITE if one.lowest_cosine is None else f"{one.lowest_cosine:.6f}",
        _percent(one.index_agreement, 2),
        _percent(one.greedy_agreement, 1),
    ]


def _chain_cells(parity: NumericParity) -> list[str]:
    routing = parity.routing
    return [
        str(parity.tokens.rows),
        _percent(parity.tokens.identical, 1),
        f"{100 * routing.index_agreement:.2f} %"
        if routing
        else parity.routing_reason or NOT_MEASURED,
        f"{routing.matched_cosine:.6f}" if routing else NOT_MEASURED,
    ]


def _pair_row(pair: SpeedPair) -> Row:
    ttft = NOT_ON_THIS_DEVICE if pair.ttft is None else ratio_text(pair.ttft)
    tpot = NOT_MEASURED if pair.tpot is None else ratio_text(pair.tpot)
    return f"{pair.candidate} / {pair.baseline}", [pair.kind, ttft, tpot]


def _percent(value: float | None, digits: int) -> str:
    return NOT_MEASURED if value is None else f"{100 * value:.{digits}f} %"
