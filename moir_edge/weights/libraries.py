"""Turn whatever a library raises while it reads the files of a checkpoint into one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from moir_edge.errors import DataError, MoirEdgeError, one_line

__all__ = ["naming_files"]


@contextmanager
def naming_files(start: str, end: str = "") -> Iterator[None]:
    """Name the files of a checkpoint in front of what a library says of them; use it around calls of a library alone.

    transformers, tokenizers and safetensors have no common exception: a setting of another type than expected ends in any.

    Args:
        start: Begins the message, such as ``"FOLDER: its tokenizer cannot be loaded"``.
        end: What the user can do.

    Raises:
        DataError: Something inside raised anything but an error of moir-edge, or that memory ran out.
    """
    try:
        yield
    except (MoirEdgeError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f"{start}: {one_line(error)}{end}") from error
