"""Rows of data: the project's own JSON lines, published formats, and degraded versions."""

from __future__ import annotations

from moir_edge.data.rows import TASKS, Row, read_rows

__all__ = ["TASKS", "Row", "read_rows"]
