"""A comparison for people: a table in the terminal and one self-contained HTML page."""

from __future__ import annotations

from moir_edge.evaluation.compare.page import render_html
from moir_edge.evaluation.compare.table import print_report

__all__ = ["print_report", "render_html"]
