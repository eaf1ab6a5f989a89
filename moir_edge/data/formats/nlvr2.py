"""NLVR2: JSON lines of statements about two photographs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moir_edge.data.formats.files import find_image, typed, worded, words
from moir_edge.data.formats.source import DatasetFormat, PlacedRow, attempt, register
from moir_edge.data.json_lines import json_objects
from moir_edge.data.rows import Row
from moir_edge.errors import DataError

if TYPE_CHECKING:
    from moir_edge.data.formats.source import DataSource

__all__ = ["Nlvr2"]

_IDENTIFIER = re.compile(r"(?P<split>\w+)-(?P<set>\d+)-(?P<pair>\d+)-(?P<sentence>\d+)")
_VERDICTS = ("true", "false")


@register
class Nlvr2(DatasetFormat):
    """`dev.json`, `test1.json`, … with images `dev-850-0-img0.png` and `-img1.png`, left one first.

    They lie in the folder or its sub-folder `{split}`, those of the training split also in `{directory}` below either,
    as the record's key of that name says. A row's group is its identifier without the image pair, split-set-sentence:
    consistency counts a sentence where all of its pairs are judged right. Rows take the label as `true` or `false`.

    Source: https://github.com/lil-lab/nlvr, nlvr2/README.md and nlvr2/eval/metrics.py.
    """

    name = "nlvr2"

    def scan(self, source: DataSource) -> Iterator[PlacedRow]:
        """Give one row per statement and pair of images."""
        for where, _, record in json_objects(source.path):
            yield attempt(where, partial(_row, record, where, source))


def _row(record: Mapping[str, Any], where: str, source: DataSource) -> Row:
    name = typed(record, "identifier", str, where)
    part = _IDENTIFIER.fullmatch(name)
    if part is None:
        raise DataError(
            f"{where}: identifier {name!r} is not split-set-pair-sentence, such as dev-850-0-0"
        )
    return Row(
        id=name,
        task="statement",
        images=tuple(_image(record, part, side, where, source) for side in (0, 1)),
        prompt=worded(source, words(record, "sentence", where)),
        answers=(_verdict(record, where),) if source.answers else (),
        group=f"{part['split']}-{part['set']}-{part['sentence']}",
    )


def _image(
    record: Mapping[str, Any], part: re.Match[str], side: int, where: str, source: DataSource
) -> Path:
    name = f"{part['split']}-{part['set']}-{part['pair']}-img{side}.png"
    places = [name, f"{part['split']}/{name}"]
    if "directory" in record:
        places = [f"{record['directory']}/{name}", f"{part['split']}/{record['directory']}/{name}", *places]  # fmt: skip
    return find_image(source, places, where)


def _verdict(record: Mapping[str, Any], where: str) -> str:
    label = record.get("label")
    if not isinstance(label, str) or label.lower() not in _VERDICTS:
        found = repr(label) if "label" in record else "nothing"
        raise DataError(f'{where}: got {found} for \'label\', expected "True" or "False"')
    return label.lower()
