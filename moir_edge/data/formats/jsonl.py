"""The project's own JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from moir_edge.data.formats.source import DatasetFormat, PlacedRow, register
from moir_edge.data.rows import scan_rows

if TYPE_CHECKING:
    from moir_edge.data.formats.source import DataSource

__all__ = ["JsonLines"]


@register
class JsonLines(DatasetFormat):
    """See `moir_edge.data.rows.read_rows`: every row names its images, its prompt and its task."""

    name = "jsonl"
    takes_images = False
    takes_prompt = False

    def scan(self, source: DataSource) -> Iterator[PlacedRow]:
        """Give the rows line by line."""
        return scan_rows(source.path)
