"""The project's own JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from moir_edge.benchmarks.data import scan_rows
from moir_edge.benchmarks.datasets.registry import DatasetFormat, PlacedRow, register

if TYPE_CHECKING:
    from moir_edge.benchmarks.datasets.source import DataSource

__all__ = ["JsonLines"]


@register
class JsonLines(DatasetFormat):
    """See `moir_edge.benchmarks.data.read_rows`: every row names its images, its prompt and its task."""

    name = "jsonl"
    takes_images = False
    takes_prompt = False

    def scan(self, source: DataSource) -> Iterator[PlacedRow]:
        """Give the rows line by line."""
        return scan_rows(source.path)
