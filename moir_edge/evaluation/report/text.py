"""Spell figures, alike in the terminal and on the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moir_edge.evaluation.comparison.schema import CandidateReport
from moir_edge.evaluation.provenance import DataFacts
from moir_edge.evaluation.records import GateResult
from moir_edge.metrics.records import Interval, TaskFigures
from moir_edge.printable import single_line

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "NOT_MEASURED",
    "bytes_text",
    "data_title",
    "gates_colour",
    "gates_verdict",
    "headline",
    "interval_text",
    "joules",
    "milliseconds",
    "print_gates",
    "print_line",
    "print_notices",
    "ratio_text",
    "score_text",
]

NOT_MEASURED = "–"
_STYLES = {"passed": "green", "failed": "bold red", "undecided": "bold yellow"}
_MEGABYTE = 1e6
_SAME_SPEED = 0.05


def bytes_text(count: int) -> str:
    """Return a size in MB or GB (powers of ten)."""
    megabytes = count / _MEGABYTE
    return f"{megabytes / 1000:.2f} GB" if megabytes >= 1000 else f"{megabytes:.1f} MB"


def data_title(data: DataFacts | None) -> str:
    """Return which rows were used, in a few words."""
    return "prompts made from a seed" if data is None else f"{data.rows} rows of {data.path}"


def joules(value: float) -> str:
    """Return an energy in J with about three digits."""
    return f"{value:.3g} J" if value < 100 else f"{value:.0f} J"


def milliseconds(value: float) -> str:
    """Return a time in ms with about three digits."""
    return (
        f"{value:.0f} ms"
        if value >= 100
        else f"{value:.1f} ms"
        if value >= 1
        else f"{value:.2f} ms"
    )


def score_text(figures: TaskFigures) -> str:
    """Return a score in its own scale: % for accuracies, plain for CIDEr-D."""
    return f"{figures.score:.2f}" if figures.metric == "CIDEr-D" else f"{figures.score:.1f} %"


def interval_text(figure: Interval | None) -> str:
    """Return a share in % with its 95 % interval."""
    if figure is None:
        return NOT_MEASURED
    value, low, high = (100 * part for part in (figure.value, figure.low, figure.high))
    return f"{value:.1f} % ({low:.1f}–{high:.1f})"


def ratio_text(ratio: Interval | None) -> str:
    """Return a ratio of times with its 95 % interval."""
    if ratio is None:
        return NOT_MEASURED
    return f"{ratio.value:.3f} ({ratio.low:.3f}–{ratio.high:.3f})"


def print_gates(gates: Sequence[GateResult], console: Console) -> None:
    """Print what came of each gate, one line each.

    Args:
        gates: In the order of the report.
        console: Where to print.
    """
    for gate in gates:
        print_line(gate.sentence(), console, style=_STYLES[gate.outcome])


def print_notices(notices: Sequence[str], console: Console) -> None:
    """Print what a reader must know before the figures, one line each.

    Args:
        notices: Sentences.
        console: Where to print.
    """
    for notice in notices:
        print_line(f"note: {notice}", console, style="bold yellow")


def print_line(text: str, console: Console, *, style: str = "") -> None:
    """Print a text that holds what files say: as one line, without markup, with what steers a terminal spelled.

    Args:
        text: The line.
        console: Where to print.
        style: As rich names styles.
    """
    from rich.text import Text

    console.print(Text(single_line(text)), style=style)


def gates_verdict(gates: Sequence[GateResult]) -> str:
    """Return what came of gates, in a few words."""
    if not gates:
        return "no gates set"
    counts = Counter(gate.outcome for gate in gates)
    if counts["passed"] == len(gates):
        return f"all {len(gates)} gates passed"
    if not counts["failed"]:
        return f"{counts['undecided']} of {len(gates)} gates undecided"
    undecided = f", {counts['undecided']} undecided" if counts["undecided"] else ""
    return f"{counts['failed']} of {len(gates)} gates failed{undecided}"


def gates_colour(gates: Sequence[GateResult]) -> str:
    """Return the page's class for the verdict: empty without gates."""
    outcomes = {gate.outcome for gate in gates}
    if not outcomes:
        return ""
    return "bad" if "failed" in outcomes else "open" if "undecided" in outcomes else "good"


def headline(candidate: CandidateReport, reference: CandidateReport) -> str:
    """Return one sentence that sums a candidate up against the reference."""
    size = candidate.weights_bytes / reference.weights_bytes
    ttft = candidate.ttft.median / reference.ttft.median
    kept = (
        f"Keeps {100 * candidate.recovery.value:.1f} % of the reference's score"
        if candidate.recovery
        else "Scores were not compared (no answers in the data)"
    )
    return f"{kept} at {100 * size:.0f} % of its weight bytes; first token {_speed(ttft)}."


def _speed(ratio: float) -> str:
    """Return how a time relates to the reference's; a difference of a few percent is none."""
    if abs(ratio - 1) < _SAME_SPEED:
        return "equally fast"
    return f"{1 / ratio:.1f}× faster" if ratio < 1 else f"{ratio:.1f}× slower"
