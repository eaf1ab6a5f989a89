"""Start Python processes that import nothing from the current folder, and that end with this one.

`python -c` and `python -m` put the current folder first on the search path, so a `numpy.py` that happens to lie there would run in
place of the library. `-P` switches that off from Python 3.11 on; what stands here works from 3.10 on.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "child_command",
    "child_environment",
    "end_with_parent",
    "module_command",
    "outside_current_folder",
]

# The statement that replaces the path comes before every import that could be served from a folder. The package itself is
# loaded from where the parent has it, which is not always on the path.
_START = """\
import sys
sys.path[:] = {paths!r}
from importlib import util
spec = util.spec_from_file_location("moir_edge", {package!r})
sys.modules["moir_edge"] = package = util.module_from_spec(spec)
spec.loader.exec_module(package)
from moir_edge.children import end_with_parent
end_with_parent()
"""
_PR_SET_PDEATHSIG = 1
_DROP = """\
import sys
if not getattr(sys.flags, "safe_path", False): del sys.path[0]
"""
_FIRST = """\
sys.path.insert(0, {root!r})
"""
_CALL = """\
from {module} import {function}
sys.exit({function}())
"""
_RUN = """\
import runpy
sys.argv.pop(0)
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""


def child_command(entry: str, *arguments: str) -> list[str]:
    """Return the command that runs one function of this package in a new Python process.

    Args:
        entry: ``"module:function"``; what the function returns is the exit code.
        arguments: The process finds them in `sys.argv[1:]`.
    """
    module, _, function = entry.partition(":")
    return _command(_CALL.format(module=module, function=function), arguments)


def module_command(
    module: str, *arguments: str, python: str = sys.executable, root: Path | None = None
) -> list[str]:
    """Return the command that runs a module as `python -m` does, without the current folder on its path.

    Args:
        module: Its full name.
        arguments: The module finds them in `sys.argv[1:]`.
        python: Another interpreter keeps its own search path, and finds this package by its own means.
        root: Folder that the module is looked for in first; None where the search path has it.
    """
    first = "" if root is None else _FIRST.format(root=str(root.resolve()))
    code = first + _RUN.format(module=module)
    if python != sys.executable:
        return [python, "-c", _DROP + code, module, *arguments]
    return _command(code, (module, *arguments))


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a child: this process's own, with a `PYTHONPATH` that cannot mean the current folder.

    Args:
        extra: Variables to add or replace.
    """
    environment = {**os.environ, **(extra or {}), "PYTHONSAFEPATH": "1"}
    entries = _python_path()
    environment.pop("PYTHONPATH", None)
    if entries:
        environment["PYTHONPATH"] = os.pathsep.join(entries)
    return environment


def end_with_parent() -> None:
    """Let the system kill this process as soon as its parent is gone, even killed; on Linux only.

    Elsewhere a child ends when it next reads from its parent or writes to it, which a long computation puts off.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def outside_current_folder() -> Iterator[None]:
    """Stand in the root of the file system while `multiprocessing` starts processes, and go back.

    Its processes look for their first imports in the current folder, and change to this process's own afterwards. A queue or
    a lock starts a process too.
    """
    here = os.getcwd()
    os.chdir(Path(here).anchor)
    try:
        yield
    finally:
        os.chdir(here)


def _command(code: str, arguments: tuple[str, ...]) -> list[str]:
    package = str(Path(__file__).resolve().with_name("__init__.py"))
    start = _START.format(paths=_search_path(), package=package)
    return [sys.executable, "-c", start + code, *arguments]


def _search_path() -> list[str]:
    """Return this process's search path without the current folder, unless the user put it there by name."""
    asked_for = set(_python_path())
    return [
        entry
        for entry in sys.path
        if os.path.isabs(entry) and (entry in asked_for or not _is_current_folder(entry))
    ]


def _python_path() -> list[str]:
    """Return the entries of `PYTHONPATH` as absolute paths; an empty one and ``.`` are left out."""
    entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    absolute = [
        entry if os.path.isabs(entry) else os.path.abspath(entry)
        for entry in entries
        if os.path.isabs(entry) or not _is_current_folder(entry)
    ]
    return list(dict.fromkeys(absolute))


def _is_current_folder(entry: str) -> bool:
    return os.path.realpath(entry) == os.path.realpath(os.getcwd())
