"""Token embeddings without a graph: rows of the table as it lies in the bundle's file, mapped and not copied."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moir_edge.bundle.manifest import TableEntry, TensorPlace
from moir_edge.errors import BundleError

if TYPE_CHECKING:
    from moir_edge.bundle import Bundle
    from moir_edge.runtime.interface import Floats, Ints

__all__ = ["TokenTable"]

# numpy has no bfloat16: its bits are the upper half of a float32's.
_TYPES = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "int8": "i1"}


class TokenTable:
    """Gives the bits that the graph `embedding` gives, for a graph that is nothing but a look-up.

    Args:
        entry: Where the table lies.
        values: (tokens, hidden) float32, float16, or bits of bfloat16; or (hidden, tokens) int8.
        scale: (tokens,) float32 or float16 for int8 values.
        name: What messages call the table.
    """

    def __init__(
        self,
        entry: TableEntry,
        values: npt.NDArray[Any],
        scale: npt.NDArray[Any] | None,
        name: str,
    ) -> None:
        self._entry = entry
        self._values = values
        self._scale = scale
        self._name = name

    @classmethod
    def of(cls, bundle: Bundle) -> TokenTable | None:
        """Map the table of a bundle; None where its manifest names none.

        Args:
            bundle: An opened bundle, whose manifest was held against itself.

        Raises:
            BundleError: The file is missing, or shorter than the table.
        """
        component = bundle.manifest.components.get("embedding")
        entry = None if component is None else component.table
        if entry is None:
            return None
        scale = None if entry.scale is None else _mapped(bundle, entry.scale)
        name = str(bundle.path / entry.values.file)
        return cls(entry, _mapped(bundle, entry.values), scale, name)

    def give_back(self) -> None:
        """Let go of the pages in memory; they come back from the system's copy of the file as they are asked for."""
        for array in (self._values, self._scale):
            _advise(array, "MADV_DONTNEED")

    def rows(self, ids: Ints) -> Floats:
        """Return embeddings (batch, sequence, hidden) of token ids (batch, sequence), an array of its own.

        Raises:
            BundleError: An id is past the table.
        """
        flat = ids.reshape(-1)
        if flat.size and (flat.min() < 0 or flat.max() >= self._entry.tokens):
            wrong = flat[(flat < 0) | (flat >= self._entry.tokens)][0]
            raise BundleError(
                f"{self._name} holds {self._entry.tokens} tokens, and the prompt has the id {wrong}; export the bundle again"
            )
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # as a graph, it says nothing of infinities
            found = self._floats(flat)
            if self._entry.factor is not None:
                found *= np.float32(self._entry.factor)
        return found.reshape(*ids.shape, self._entry.hidden)

    def _floats(self, ids: Ints) -> Floats:
        """Return (ids, hidden) float32, rounded where the graph rounds."""
        if self._scale is not None:
            codes = np.ascontiguousarray(np.take(self._values, ids, axis=1).T)
            scale = self._scale[ids][:, None]
            product: Floats = np.multiply(codes, scale, dtype=scale.dtype).astype(
                np.float32, copy=False
            )
            return product
        rows = np.take(self._values, ids, axis=0)
        if self._entry.values.dtype == "bfloat16":
            rows = (rows.astype(np.uint32) << np.uint32(16)).view(np.float32)
        floats: Floats = rows.astype(np.float32, copy=False)
        return floats


def _mapped(bundle: Bundle, place: TensorPlace) -> npt.NDArray[Any]:
    """Map numbers of a file, once they are known to lie in it."""
    path = bundle.file(place.file)
    size = path.stat().st_size
    if place.end > size:
        raise BundleError(
            f"{path} has {size} bytes, and the token table ends at {place.end}; the bundle is damaged, copy or export it again"
        )
    array = np.memmap(path, _TYPES[place.dtype], "r", place.offset, place.shape)
    # The system reads the pages before they are asked for one by one: a token's int8 values lie in as many as it has values.
    _advise(array, "MADV_WILLNEED")
    return array.view(np.ndarray)


def _advise(array: Any, name: str) -> None:
    """Give the system an advice about the pages of a mapped file, where both know it."""
    while isinstance(array, np.ndarray):
        array = array.base
    advice = getattr(mmap, name, None)
    if isinstance(array, mmap.mmap) and advice is not None:
        array.madvise(advice)
