"""The comparison as one HTML page that needs no network: styles, charts and pictures are inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from moir_edge.evaluation.comparison import charts
from moir_edge.evaluation.comparison.schema import (
    COMPONENT_ORDER,
    CandidateReport,
    ChangedAnswer,
    ComparisonReport,
)
from moir_edge.evaluation.comparison.table import figure_rows
from moir_edge.evaluation.report.template import render_template
from moir_edge.evaluation.report.text import (
    NOT_MEASURED,
    bytes_text,
    gates_colour,
    gates_verdict,
    headline,
    interval_text,
    milliseconds,
    score_text,
)

__all__ = ["render_html"]

SHOWN_CHANGES = 8
THUMBNAIL_PX = 96
_TEMPLATE = "report.html.j2"


def render_html(report: ComparisonReport) -> str:
    """Return the page.

    Args:
        report: The report. Pictures of changed answers are read from its image paths; one that is gone is left out.
    """
    filters: dict[str, Callable[..., str]] = {
        "bytes": bytes_text,
        "ms": milliseconds,
        "interval": interval_text,
        "score": score_text,
    }
    return render_template(_TEMPLATE, _context(report), filters)


def _context(report: ComparisonReport) -> dict[str, Any]:
    candidates = report.candidates
    return {
        "report": report,
        "reference": report.reference,
        "others": list(enumerate(candidates))[1:],
        "verdict": gates_verdict(report.gates),
        "verdict_colour": gates_colour(report.gates),
        "headline": headline,
        "figures": [row for row in figure_rows(report) if _worth_showing(row[1])],
        "charts": _charts(candidates),
        "parts": _component_names(candidates),
        "routed": [one for one in candidates[1:] if one.routing],
        "changes": [
            (at, one, [(change, _thumbnails(change)) for change in one.changed[:SHOWN_CHANGES]])
            for at, one in list(enumerate(candidates))[1:]
        ],
        "not_measured": NOT_MEASURED,
    }


def _charts(candidates: Sequence[CandidateReport]) -> dict[str, Any]:
    from markupsafe import Markup

    drawn = {
        "trade_off": charts.trade_off_chart(candidates),
        "recovery": charts.recovery_chart(candidates),
        "components": charts.component_chart(candidates),
        "spread": charts.spread_chart(candidates),
    }
    # the charts escape what they print; Markup keeps jinja2 from escaping it again
    return {name: Markup(chart) if chart else None for name, chart in drawn.items()}


def _component_names(candidates: Sequence[CandidateReport]) -> list[str]:
    present = {name for one in candidates for name in one.components}
    return [name for name in COMPONENT_ORDER if name in present]


def _worth_showing(cells: Sequence[str]) -> bool:
    return any(cell != NOT_MEASURED for cell in cells)


def _thumbnails(change: ChangedAnswer) -> list[str]:
    return [url for path in change.images if (url := _thumbnail(Path(path))) is not None]


def _thumbnail(path: Path) -> str | None:
    """Return a small PNG as a data URL, or None if the picture is gone."""
    from moir_edge.errors import DataError
    from moir_edge.runtime.images import read_image

    try:
        image = read_image(path)
    except DataError:
        return None
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
