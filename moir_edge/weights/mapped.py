"""Weights that lie in a mapped file: the pages that reading has brought in go back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moir_edge.mapped_pages import c_library, give_back_pages, mapped_ranges

if TYPE_CHECKING:
    import torch

__all__ = ["MappedFiles", "trim_memory"]

_PAGE = (
    4096  # asked of the system where a call needs it; a larger page only widens what is given back
)


@dataclass(frozen=True)
class _Range:
    """Addresses of one mapping; the tensor in it keeps the mapping alive, so that the addresses stay those of the file."""

    start: int
    end: int
    keeper: torch.Tensor


class MappedFiles:
    """Where the weight files of a checkpoint are mapped; nothing where the system does not say, or the weights were copied.

    The weights must stay as the file has them: a page that was written to goes back with what was written.

    Args:
        files: The weight files.
        tensors: The weights that were loaded from them.
    """

    def __init__(self, files: Iterable[Path] = (), tensors: Iterable[torch.Tensor] = ()) -> None:
        mapped = mapped_ranges(files)
        self._ranges: dict[int, _Range] = {}
        for tensor in tensors if mapped else ():
            address = tensor.data_ptr()
            for start, end in mapped:
                if start <= address < end:
                    self._ranges.setdefault(start, _Range(start, end, tensor.detach()))

    def holds(self, tensor: torch.Tensor) -> bool:
        """Say whether a tensor lies in one of the files."""
        return self._range_of(tensor.data_ptr()) is not None

    def give_back(self, tensor: torch.Tensor) -> None:
        """Let the system take the pages of a tensor back; does nothing for one that lies elsewhere."""
        found = self._range_of(tensor.data_ptr())
        if found is None:
            return
        first = max(found.start, tensor.data_ptr() // _PAGE * _PAGE)
        last = min(found.end, -(-(tensor.data_ptr() + tensor.nbytes) // _PAGE) * _PAGE)
        give_back_pages(first, last)

    def _range_of(self, address: int) -> _Range | None:
        ranges = self._ranges.values()
        return next((one for one in ranges if one.start <= address < one.end), None)


def trim_memory() -> None:
    """Let the system have the memory of objects that nothing reaches: graphs and their weights hold each other.

    What the C library keeps for later goes back on Linux with glibc alone.
    """
    gc.collect()
    trim = getattr(c_library(), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(ctypes.c_size_t(0))
