"""Parts that the published formats share: JSON with checked keys, places of images, worded prompts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from moir_edge.errors import DataError
from moir_edge.json_files import read_object
from moir_edge.limits import DATA_SET_BYTES

if TYPE_CHECKING:
    from moir_edge.data.formats.source import DataSource

__all__ = [
    "PLACEHOLDER",
    "caption_request",
    "find_image",
    "listed",
    "read_json",
    "record_place",
    "typed",
    "worded",
    "words",
]

PLACEHOLDER = "{text}"
"""Where the question or statement goes in a worded prompt."""

CAPTION_REQUEST = "Describe the image in one sentence."
"""What is asked of every image that has captions, unless the user words it."""

T = TypeVar("T")
_NAMES = {int: "a number", str: "a string", list: "a list", dict: "an object"}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        DataError: It cannot be read, is too large, is not JSON or holds something else.
    """
    return read_object(path, remedy="download it again", most_bytes=DATA_SET_BYTES)


def typed(record: Mapping[str, Any], key: str, kind: type[T], where: str) -> T:
    """Return the value of a key that must be there.

    Raises:
        DataError: It is missing or of another type.
    """
    value = record.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        found = f"{value!r:.60}" if key in record else "nothing"
        raise DataError(f"{where}: got {found} for {key!r}, expected {_NAMES[kind]}")
    return value


def words(record: Mapping[str, Any], key: str, where: str) -> str:
    """Return the text of a key that must be there and must not be blank.

    Raises:
        DataError: It is missing, of another type or blank.
    """
    text = typed(record, key, str, where)
    if not text.strip():
        raise DataError(f"{where}: {key!r} is empty; leave the record out, or write its text")
    return text


def listed(content: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    """Return the objects of a list, such as `questions`.

    Raises:
        DataError: It is missing, is no list or holds something else.
    """
    records = typed(content, key, list, where)
    for at, record in enumerate(records):
        if not isinstance(record, dict):
            raise DataError(f"{where}: {key}[{at}] is not an object: {record!r:.60}")
    return records


def record_place(
    path: Path, key: str, at: int, record: Mapping[str, Any], id_key: str = "id"
) -> str:
    """Return where a record stands: by its id, as `questions.json: question 7`, or by its index without one.

    Args:
        path: The file.
        key: The list that holds the record, a plural.
        at: Its index there.
        record: The record.
        id_key: The key of its id.
    """
    name = record.get(id_key)
    return f"{path}: {key}[{at}]" if name is None else f"{path}: {key.removesuffix('s')} {name}"


def find_image(source: DataSource, names: Sequence[str], where: str) -> Path:
    """Return the first of several places in a source's folder where an image lies.

    Raises:
        DataError: It lies in none.
    """
    folder = Path(source.images or "")
    for name in names:
        path = folder / name
        if os.path.isfile(path):
            return path
    places = " nor as ".join(names)
    raise DataError(
        f"{where}: there is no image {places} in {folder}; "
        f"give the folder that holds the images of this split as {source.field_name('images')}"
    )


def worded(source: DataSource, text: str) -> str:
    """Return the prompt of a question or statement as the source words it.

    Args:
        source: Its `prompt` is text with `{text}`, or None for the bare question or statement.
        text: What goes in.

    Raises:
        DataError: The wording has no place for it.
    """
    template = source.prompt
    if template is None:
        return text
    if PLACEHOLDER not in template:
        raise DataError(
            f"{source.field_name('prompt')} {template!r} does not mark the question; "
            f"write {PLACEHOLDER} where the question goes"
        )
    return template.replace(PLACEHOLDER, text)


def caption_request(source: DataSource) -> str:
    """Return what is asked of an image that has captions: the source's `prompt`, or `CAPTION_REQUEST`.

    Raises:
        DataError: It is empty or has a place for a question.
    """
    request = CAPTION_REQUEST if source.prompt is None else source.prompt
    if PLACEHOLDER in request or not request.strip():
        raise DataError(
            f"{source.field_name('prompt')} {request!r} cannot be used for captions, which have no question: "
            "write the whole request"
        )
    return request
