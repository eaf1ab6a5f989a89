"""TensorRT-RTX compiles its kernels where they run; what it compiled is kept on disk for the next process.

Only a saving of time: a cache that is missing, damaged, foreign or cannot be written changes nothing but the start. The file
ends with the SHA-256 of what TensorRT serialized, so that TensorRT parses no other bytes than those it wrote.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from moir_edge.errors import EnvironmentProblem, MoirEdgeError
from moir_edge.json_files import read_bounded
from moir_edge.limits import KERNEL_CACHE_BYTES
from moir_edge.whole_files import write_whole

__all__ = ["KernelCache", "cache_folder", "kernel_cache_path"]

_PRIVATE = 0o700  # what is compiled here is run, so nobody else may write it


def cache_folder(name: str) -> Path:
    """Return the user's folder for things that can be made again: below `XDG_CACHE_HOME`, or ``~/.cache``.

    Raises:
        EnvironmentProblem: The user has no home.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # A relative path means nothing, by the specification of these variables.
        root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    except RuntimeError as error:
        raise EnvironmentProblem(
            f"there is no folder for what is compiled here ({error}); set XDG_CACHE_HOME to one"
        ) from error
    return root / "moir-edge" / name


def kernel_cache_path(engine_sha256: str, version: str) -> Path | None:
    """Return where an engine's compiled kernels are kept; None where the user has no home.

    Args:
        engine_sha256: Hash of the engine file.
        version: Of the module that runs it.
    """
    try:
        return cache_folder("kernels") / f"{engine_sha256[:32]}-{version}.bin"
    except EnvironmentProblem:
        return None


class KernelCache:
    """The compiled kernels of one engine, shared by its contexts.

    Args:
        path: The file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._cache: Any = None
        self._loaded = b""

    def attach(self, config: Any) -> None:
        """Give the cache to a runtime configuration; TensorRT proper has none and is left alone."""
        if self._path is None or not hasattr(config, "create_runtime_cache"):
            return
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            self._loaded = _read(self._path)
            if self._loaded and not self._cache.deserialize(self._loaded):
                self._loaded = (
                    b""  # of another driver or GPU: TensorRT has refused it and starts empty
                )
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write what was compiled, if it is more than what was read; the file appears whole or not at all."""
        if self._path is None or self._cache is None:
            return
        data = bytes(memoryview(self._cache.serialize()))
        if not data or data == self._loaded:
            return
        # A full disk or a read-only home costs only the saving.
        with suppress(EnvironmentProblem, OSError):
            self._path.parent.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
            write_whole(self._path, data + hashlib.sha256(data).digest())


def _read(path: Path) -> bytes:
    """Return what was serialized, or no bytes where the file is missing or damaged."""
    try:
        content = read_bounded(path, KERNEL_CACHE_BYTES)
    except MoirEdgeError:
        return b""
    size = hashlib.sha256().digest_size
    data, digest = content[:-size], content[-size:]
    return data if hashlib.sha256(data).digest() == digest else b""
