"""Give memory that was freed back to the system: the C library keeps it for later allocations, which may never come."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Any

from moir_edge.mapped_pages import c_library

__all__ = ["give_back_freed_memory", "large_blocks_apart"]

_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_LARGE = 1 << 20
"""Bytes of a block that is mapped on its own; glibc begins with 128 kB and goes up to 32 MB by itself."""

_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def give_back_freed_memory() -> None:
    """Return what is free in the process's heap to the system; nothing happens where the C library cannot.

    Loading a graph leaves holes as large as its weights, because ONNX Runtime packs a copy of each and frees the rest.
    """
    if trim := getattr(_library(), "malloc_trim", None):  # glibc has it, musl does not
        trim(0)


@cache
def large_blocks_apart() -> None:
    """Let the C library map large blocks one by one from now on, so that each goes back to the system when it is freed.

    Otherwise the activations of a picture end up in the heap, and small blocks that outlive them keep their place there.
    Nothing happens outside glibc, or where the environment has settings of its own for it.
    """
    option = getattr(_library(), "mallopt", None)
    if option is not None and not any(os.environ.get(name) for name in _SETTINGS):
        option(_MMAP_THRESHOLD, _LARGE)


def _library() -> Any:
    """Return the C library of a Linux process, else None."""
    return c_library() if sys.platform.startswith("linux") else None
