"""COCO captions: one JSON file of images and annotations; all captions of an image are its references."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moir_edge.data.formats.files import (
    caption_request,
    find_image,
    listed,
    read_json,
    record_place,
    typed,
    words,
)
from moir_edge.data.formats.source import DatasetFormat, PlacedRow, attempt, register
from moir_edge.data.rows import Row
from moir_edge.errors import DataError

if TYPE_CHECKING:
    from moir_edge.data.formats.source import DataSource

__all__ = ["CocoCaptions"]

_SPLIT = re.compile(r"COCO_(\w+?)_\d+\.")


@register
class CocoCaptions(DatasetFormat):
    """`captions_val2014.json` with `val2014/`, or those of 2017.

    An image lies under its `file_name` in the folder, those of 2014 also in the sub-folder of their split.

    Source: https://cocodataset.org/#format-data, section 5.
    """

    name = "coco-captions"

    def scan(self, source: DataSource) -> Iterator[PlacedRow]:
        """Give one row per image, in the order of `images`."""
        prompt = caption_request(source)
        content = read_json(source.path)
        images = listed(content, "images", str(source.path))
        known = {image["id"] for image in images if isinstance(image.get("id"), int)}
        captions = _captions(content, known, source.path) if source.answers else None
        for at, image in enumerate(images):
            where = record_place(source.path, "images", at, image)
            yield attempt(where, partial(_row, image, where, captions, prompt, source))


def _row(
    image: dict[str, Any],
    where: str,
    captions: dict[int, list[str]] | None,
    prompt: str,
    source: DataSource,
) -> Row:
    number = typed(image, "id", int, where)
    if captions is not None and number not in captions:
        raise DataError(f"{where} has no caption; leave it out of 'images'")
    name = typed(image, "file_name", str, where)
    split = _SPLIT.match(name)
    places = (name, f"{split[1]}/{name}") if split else (name,)
    return Row(
        id=str(number),
        task="caption",
        images=(find_image(source, places, where),),
        prompt=prompt,
        answers=() if captions is None else tuple(captions[number]),
    )


def _captions(content: dict[str, Any], known: set[Any], path: Path) -> dict[int, list[str]]:
    """Return the captions by image id, in the order of the file."""
    captions: dict[int, list[str]] = defaultdict(list)
    for at, record in enumerate(listed(content, "annotations", str(path))):
        where = record_place(path, "annotations", at, record)
        if "caption" not in record:
            raise DataError(
                f"{where} has no caption; expected captions_*.json, not the file of another COCO task"
            )
        number = typed(record, "image_id", int, where)
        if number not in known:
            raise DataError(f"{where} is about image {number}, which is not in 'images'")
        captions[number].append(words(record, "caption", where).strip())
    return captions
