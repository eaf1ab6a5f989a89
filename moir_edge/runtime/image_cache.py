"""Image features of earlier prompts, so that a second question about the same pictures runs no vision tower."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from moir_edge.runtime.image_processor import ImageShape
from moir_edge.runtime.interface import Floats, ImageFeatures

__all__ = ["DEFAULT_IMAGE_CACHE_BYTES", "ImageCache"]

DEFAULT_IMAGE_CACHE_BYTES = 64 << 20
"""What `serve` and `chat` keep: 450 pictures of 64 tokens of 576 numbers."""


class ImageCache:
    """Keeps features of the pictures of prompts, the least recently used going first.

    A model has one of its own, so weights and processor settings need no place in the key. The key covers the pixels of all
    pictures of a prompt as `vision` takes them: features of one picture may differ in the last bit when others run with it.
    Features that do not lie on the host, as those of engines, are not kept.

    Args:
        most_bytes: Of the features that are kept; 0 keeps none.

    Attributes:
        hits: Prompts whose features were known.
        misses: Prompts with pictures whose features were not.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[bytes, ImageFeatures] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    def key(self, pixels: Floats, images: Sequence[ImageShape]) -> bytes | None:
        """Return the key of a prompt's pictures; None where nothing is kept.

        Args:
            pixels: The tiles or patches of all pictures in order.
            images: The pictures' shapes.
        """
        if not self._most_bytes:
            return None
        hashed = hashlib.sha256(repr((pixels.shape, pixels.dtype.str, tuple(images))).encode())
        hashed.update(np.ascontiguousarray(pixels).data)
        return hashed.digest()

    def get(self, key: bytes | None) -> ImageFeatures | None:
        """Return the features under a key, or None."""
        if key is None:
            return None
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                self.misses += 1
                return None
            self._kept.move_to_end(key)
            self.hits += 1
            return found

    def put(self, key: bytes | None, features: ImageFeatures | None) -> None:
        """Keep a copy of features, if they lie on the host and are not larger than the whole cache."""
        arrays = {} if features is None else {"": features.features, **features.further}
        if key is None or not all(isinstance(one, np.ndarray) for one in arrays.values()):
            return
        size = sum(one.nbytes for one in arrays.values())
        if not arrays or size > self._most_bytes:
            return
        copies = {name: one.copy() for name, one in arrays.items()}
        kept = ImageFeatures(features=copies.pop(""), further=copies)
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = kept
            self._bytes += size
            while self._bytes > self._most_bytes:
                _, old = self._kept.popitem(last=False)
                self._bytes -= old.features.nbytes + sum(one.nbytes for one in old.further.values())
