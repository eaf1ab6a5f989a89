"""A folder for torch's compiler that goes with the command: torch makes one when it is imported, and no command compiles anything."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = ["own_compiler_folder"]

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_WITHOUT_TORCH = frozenset({"build", "run", "inspect", "targets"})


@contextmanager
def own_compiler_folder(words: Sequence[str]) -> Iterator[None]:
    """Keep torch from its own choice inside the block: a folder that stays, under a name that other users can guess.

    Args:
        words: Those after `moir-edge`. A command that imports no torch is given no folder.
    """
    command = next((word for word in words if not word.startswith("-")), None)
    if command is None or command in _WITHOUT_TORCH or _VARIABLE in os.environ:
        yield
        return
    from moir_edge.temporary import TemporaryFolder

    with TemporaryFolder() as folder:
        os.environ[_VARIABLE] = str(folder)
        try:
            yield
        finally:
            os.environ.pop(_VARIABLE, None)
