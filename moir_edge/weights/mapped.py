"""Weights that lie in a mapped file: the pages that reading has brought in go back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["MappedFiles", "trim_memory"]

_PAGE = (
    4096  # asked of the system where a call needs it; a larger page only widens what is given back
)
_DONTNEED = 4


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
        mapped = _mappings({str(path.resolve()) for path in files})
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
        _libc().madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _DONTNEED)

    def _range_of(self, address: int) -> _Range | None:
        ranges = self._ranges.values()
        return next((one for one in ranges if one.start <= address < one.end), None)


def _mappings(files: set[str]) -> list[tuple[int, int]]:
    """Return the addresses at which this process has mapped one of the files."""
    if not files or not sys.platform.startswith("linux"):
        return []
    found = []
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        # start-end permissions offset device inode path
        addresses, *fields = line.split(maxsplit=5)
        if len(fields) == 5 and fields[4] in files:
            start, end = (int(address, 16) for address in addresses.split("-"))
            found.append((start, end))
    return found


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def trim_memory() -> None:
    """Let the system have the memory of objects that nothing reaches: graphs and their weights hold each other.

    What the C library keeps for later goes back on Linux with glibc alone.
    """
    gc.collect()
    trim = getattr(_libc(), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(ctypes.c_size_t(0))
