"""Data sets in the formats in which they are published, read into the rows that `compare` and `tune` work on."""

from __future__ import annotations

from moir_edge.data.formats import (  # noqa: F401  (importing registers them)
    coco,
    hub,
    jsonl,
    nlvr2,
    vqa_v2,
)
from moir_edge.data.formats.source import DataSource, as_source, format_names, read_dataset

__all__ = ["DataSource", "as_source", "format_names", "read_dataset"]
