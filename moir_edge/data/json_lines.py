"""Files of JSON lines: one object per line, checked line by line; an error names file and line."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moir_edge.errors import DataError
from moir_edge.limits import PROMPT_BYTES

__all__ = ["json_object", "json_objects", "numbered_lines"]


def json_objects(source: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Give the objects of a file of JSON lines, blank lines skipped: `file:line`, line number, object.

    Raises:
        DataError: The file cannot be read, or a line is no JSON object.
    """
    for number, line in numbered_lines(source):
        where = f"{source}:{number}"
        yield where, number, json_object(line, where)


def numbered_lines(source: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank with their numbers, from 1, without white space around them.

    Raises:
        DataError: The file cannot be read, a line is not UTF-8 text, or it is too long.
    """
    if os.path.exists(source) and not os.path.isfile(source):  # a pipe may never end
        raise DataError(
            f"{source} is not a regular file; give a file with one JSON object per line"
        )
    try:
        with source.open("rb") as lines:
            for number, line in enumerate(
                iter(lambda: lines.readline(PROMPT_BYTES + 1), b""), start=1
            ):
                where = f"{source}:{number}"
                if len(line) > PROMPT_BYTES:
                    raise DataError(
                        f"{where}: the line has more than {PROMPT_BYTES} bytes; write one object per line"
                    )
                if text := _text(line, where).strip():
                    yield number, text
    except OSError as error:
        raise DataError(f"cannot read {source}: {error.strerror or error}") from error


def _text(line: bytes, where: str) -> str:
    """Decode a line; a byte order mark, which editors on Windows write, is left out."""
    try:
        return line.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        is_utf16 = line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        found = "the file is UTF-16" if is_utf16 else f"byte {error.start + 1} is not UTF-8 text"
        raise DataError(f"{where}: {found}; save the file as UTF-8") from error


def json_object(line: str, where: str) -> dict[str, Any]:
    """Return the JSON object of one line.

    Raises:
        DataError: It is not JSON, or something else than an object.
    """
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        array = ", without the brackets of an array" if line.startswith("[") else ""
        raise DataError(
            f"{where}: not valid JSON ({error.msg} at column {error.colno}); "
            f"write one object per line{array}"
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, deep nesting
        raise DataError(f"{where}: not valid JSON ({error}); write one object per line") from error
    if not isinstance(record, dict):
        raise DataError(
            f"{where}: got a JSON {type(record).__name__}, expected an object {{...}}; "
            "write one object per line"
        )
    return record
