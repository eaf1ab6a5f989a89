"""moir-edge: vision-language models with a multi-modal information router on edge devices.

Importing this package is cheap: `load` and everything behind it is imported at first use.
"""

# The interpreter has both already: `python -m` would look for any other module in the current folder until
# `_leave_current_folder` has run.
import os
import sys

from moir_edge.version import __version__

TYPE_CHECKING = False  # `typing` would be such a module; type checkers know the name
if TYPE_CHECKING:
    from moir_edge.runtime.model import load

__all__ = ["__version__", "load"]

# ONNX Runtime from 1.29 on reports its use and leaves files in the home folder unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def _leave_current_folder() -> None:
    """Take the folder that `python -m moir_edge…` puts first off the search path, so that no file in it hides a library."""
    # The interpreter sets the first argument to "-m" for as long as it looks for the module.
    started = sys.argv[:1] == ["-m"] and _started_module().split(".")[0] == __name__
    if started and not getattr(sys.flags, "safe_path", False):
        del sys.path[0]


def _started_module() -> str:
    """Return the module that the interpreter was told to run with `-m`, `-mNAME` or as in `-Bm NAME`."""
    words = sys.orig_argv[1:]
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("-") and not word.startswith(("--", "-X", "-W")) and "m" in word:
            return word.partition("m")[2] or following
    return ""


_leave_current_folder()


def __getattr__(name: str) -> object:
    if name == "load":
        from moir_edge.runtime.model import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "load"])
