"""A comparison for people: a table in the terminal and one self-contained HTML page."""

from __future__ import annotations

from moir_edge.benchmarks.report.page import render_html
from moir_edge.benchmarks.report.table import print_report

__all__ = ["print_report", "render_html"]
