"""The diagnosis as one HTML page that needs no network, in the look of the comparison's page."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from moir_edge.evaluation.diagnosis import charts
from moir_edge.evaluation.diagnosis.schema import CLEAN, DiagnosisReport, RoutingExample
from moir_edge.evaluation.diagnosis.table import change_rows, figure_rows, layer_rows, task_rows
from moir_edge.evaluation.diagnosis.text import headline
from moir_edge.evaluation.diagnosis.values import OVERALL
from moir_edge.evaluation.report.template import render_template
from moir_edge.evaluation.report.text import bytes_text, interval_text

__all__ = ["render_html"]

_TEMPLATE = "diagnosis.html.j2"


def render_html(report: DiagnosisReport) -> str:
    """Return the page.

    Args:
        report: The diagnosis; routing maps are drawn where it still holds their pictures.
    """
    filters: dict[str, Callable[..., str]] = {"percent": interval_text, "bytes": bytes_text}
    return render_template(_TEMPLATE, _context(report), filters)


def _context(report: DiagnosisReport) -> dict[str, Any]:
    return {
        "report": report,
        "overall": OVERALL,
        "clean": CLEAN,
        "headline": headline,
        "figures": figure_rows(report),
        "tasks": task_rows(report),
        "changes": change_rows(report) if len(report.candidates) > 1 else [],
        "layers": [(one, layer_rows(one)) for one in report.candidates],
        "charts": _charts(report),
        "maps": [
            (at, one, [(example, _data_url(example)) for example in one.routing])
            for at, one in enumerate(report.candidates)
            if one.routing
        ],
    }


def _charts(report: DiagnosisReport) -> dict[str, Any]:
    from markupsafe import Markup

    drawn = {
        "scores": charts.score_chart(report),
        "shares": charts.share_chart(report),
        "perceptual": charts.perceptual_chart(report),
        "layers": charts.layer_chart(report),
    }
    # the charts escape what they print; Markup keeps jinja2 from escaping it again
    return {name: Markup(chart) if chart else None for name, chart in drawn.items()}


def _data_url(example: RoutingExample) -> str | None:
    if not example.picture_png:
        return None
    return f"data:image/png;base64,{base64.b64encode(example.picture_png).decode()}"
