"""The report of `bench` as one HTML page that needs no network, in the look of the comparison's page."""

from __future__ import annotations

from moir_edge.evaluation.parity.schema import BenchReport
from moir_edge.evaluation.parity.tables import report_tables
from moir_edge.evaluation.report.template import render_template
from moir_edge.evaluation.report.text import bytes_text, gates_colour, gates_verdict

__all__ = ["render_html"]

_TEMPLATE = "bench.html.j2"


def render_html(report: BenchReport) -> str:
    """Return the page."""
    context = {
        "report": report,
        "tables": report_tables(report),
        "verdict": gates_verdict(report.gates),
        "verdict_colour": gates_colour(report.gates),
    }
    return render_template(_TEMPLATE, context, {"bytes": bytes_text})
