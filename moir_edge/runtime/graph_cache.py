"""Graphs as ONNX Runtime optimized them for this machine, kept on disk, so that the next process does not do it again.

Only a saving of time and memory: what is missing, changed, foreign or cannot be written changes nothing but the start.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moir_edge.disk import sync_tree
from moir_edge.errors import DataError, EnvironmentProblem, MoirEdgeError, one_line
from moir_edge.finite import json_text
from moir_edge.json_files import read_json
from moir_edge.runtime.tensorrt.kernel_cache import cache_folder

__all__ = ["GRAPH_CACHE_VARIABLE", "KeptGraph", "graph_cache_bytes", "kept_graph"]

GRAPH_CACHE_VARIABLE = "MOIR_EDGE_GRAPH_CACHE"
"""Megabytes that are kept on disk in all; by default none."""

_FORM = 1  # of a folder; part of its name
_PRIVATE = 0o700  # what is kept here is run, so nobody else may write it
_GRAPH, _DATA, _RECORD = "graph.onnx", "graph.data", "record.json"
_INLINE = 1024  # bytes of a weight that stays in the graph's own file
_MOST_MEGABYTES = 1 << 24
_ABANDONED = 3600.0  # seconds after which a draft belongs to a process that was killed

# Packed weights are kept too, and mapped: they are read where they lie. ONNX Runtime 1.31 aligns them badly and gives NaN.
# Measured on x86-64 alone.
_PACKED_SINCE = (1, 32)
_PACKED_MACHINES = ("x86_64", "AMD64")

_CPU_FACTS = ("model name", "flags", "CPU implementer", "CPU part", "Features")

_log = logging.getLogger(__name__)

Open = Callable[[str, Any], Any]
"""Makes a session of a file's path and options."""


def graph_cache_bytes() -> int:
    """Return how many bytes of graphs are kept; 0 where none are.

    Raises:
        DataError: The variable holds no number, or one out of range.
    """
    text = os.environ.get(GRAPH_CACHE_VARIABLE, "").strip()
    if not text:
        return 0
    megabytes = int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else -1
    if not 0 <= megabytes <= _MOST_MEGABYTES:
        raise DataError(
            f"{GRAPH_CACHE_VARIABLE}={text[:40]!r}; it must be a number of megabytes, at least 0 and at most {_MOST_MEGABYTES}"
        )
    return megabytes << 20


def kept_graph(
    graph: Path, data: Sequence[Path], settings: Mapping[str, str], version: str
) -> KeptGraph | None:
    """Return where a graph is kept once it is optimized; None where it is not.

    Args:
        graph: The graph of the bundle.
        data: The files of its weights. They are told by place, size and time of change: their hash would take longer than
            what it saves.
        settings: Entries of the session's configuration.
        version: Of ONNX Runtime.

    Raises:
        DataError: As in `graph_cache_bytes`.
    """
    most = graph_cache_bytes()
    if not most:
        return None
    packed = _packs(version)
    try:
        root = cache_folder("graphs")
        files = [f"{path.resolve()} {_state(path)}" for path in data]
        content = hashlib.sha256(graph.read_bytes()).hexdigest()
        size = sum(path.stat().st_size for path in data) * (1 + packed)
    except (OSError, EnvironmentProblem):
        return None
    if size > most:
        _log.info(f"{graph} is not kept: it takes about {size >> 20} MB of {most >> 20}")
        return None
    set_to = [f"{key}={value}" for key, value in sorted(settings.items())]
    parts = [str(_FORM), version, str(packed), _cpu(), content, *set_to, *files]
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    return KeptGraph(folder=root / name, most_bytes=most, packed=packed)


@dataclass(frozen=True, kw_only=True)
class KeptGraph:
    """A folder with an optimized graph, or where one is to be.

    Attributes:
        folder: With the graph, its weights and a record of both.
        most_bytes: Of all such folders; the least recently used go first.
        packed: Keep the weights as the kernels take them, too.
    """

    folder: Path
    most_bytes: int
    packed: bool

    @property
    def data(self) -> Path:
        """The file of the graph's weights, which a session maps."""
        return self.folder / _DATA

    def session(self, open_session: Open, source: str, options: Callable[[], Any]) -> Any:
        """Return a session of the kept graph, made first where there is none, or of the bundle's where that cannot be.

        Args:
            open_session: Makes a session.
            source: The bundle's graph.
            options: Makes the options of a session.

        Raises:
            Exception: What `open_session` raises for the bundle's graph.
        """
        if not self._whole():
            self._write(open_session, source, options)
        found = self._opened(open_session, options) if self._whole() else None
        return open_session(source, options()) if found is None else found

    def _write(self, open_session: Open, source: str, options: Callable[[], Any]) -> None:
        """Optimize the bundle's graph and keep it; a session that writes holds all weights twice, so it goes at once."""
        draft = self.folder.with_name(f".{self.folder.name}.partial-{uuid.uuid4().hex[:12]}")
        try:
            draft.mkdir(mode=_PRIVATE, parents=True)
            open_session(source, self._writing(options(), draft))
            self._keep(draft)
        except Exception as error:  # a full disk, or a graph that cannot be written or read at all
            _log.warning(f"{source} is not kept as it is optimized: {one_line(error)}")
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _opened(self, open_session: Open, options: Callable[[], Any]) -> Any:
        import onnxruntime

        chosen = options()
        chosen.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            session = open_session(str(self.folder / _GRAPH), chosen)
        except Exception as error:
            _log.warning(f"{self.folder} cannot be loaded and is made again: {one_line(error)}")
            shutil.rmtree(self.folder, ignore_errors=True)
            return None
        with suppress(OSError):
            os.utime(self.folder / _RECORD)  # when it was used last
        return session

    def _whole(self) -> bool:
        """Say whether the files are those that were written."""
        if not self.folder.is_dir():
            return False
        try:
            record = read_json(self.folder / _RECORD)
            if record == self._record(self.folder):
                return True
        except (OSError, MoirEdgeError):
            pass
        _log.warning(f"{self.folder} is not as it was written and is made again")
        shutil.rmtree(self.folder, ignore_errors=True)
        return False

    def _record(self, folder: Path) -> dict[str, Any]:
        data = folder / _DATA
        return {
            "graph": hashlib.sha256((folder / _GRAPH).read_bytes()).hexdigest(),
            "data": _state(data) if data.exists() else "",
        }

    def _writing(self, options: Any, draft: Path) -> Any:
        """Let a session write what it optimizes."""
        options.optimized_model_filepath = str(draft / _GRAPH)
        entries = {
            "session.optimized_model_external_initializers_file_name": _DATA,
            "session.optimized_model_external_initializers_min_size_in_bytes": str(_INLINE),
        }
        if self.packed:
            entries["session.save_external_prepacked_constant_initializers"] = "1"
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        return options

    def _keep(self, draft: Path) -> None:
        """Put a written graph in its place, unless another process did, and make room for it.

        Raises:
            OSError: The record cannot be written.
        """
        (draft / _RECORD).write_text(json_text(self._record(draft)), encoding="utf-8")
        sync_tree(draft)
        with suppress(OSError):  # another process was first
            draft.rename(self.folder)
        _make_room(self.folder, self.most_bytes)


def _make_room(newest: Path, most_bytes: int) -> None:
    """Remove what was not used for longest, and drafts of processes that were killed."""
    for one in newest.parent.glob(".*.partial-*"):
        with suppress(OSError):
            if time.time() - one.stat().st_mtime > _ABANDONED:
                shutil.rmtree(one, ignore_errors=True)
    found = []
    for folder in newest.parent.iterdir():
        with suppress(OSError):
            used = (folder / _RECORD).stat().st_mtime
            found.append((used, sum(one.stat().st_size for one in folder.iterdir()), folder))
    total = sum(size for _, size, _ in found)
    for _, size, folder in sorted(found):
        if total <= most_bytes:
            return
        shutil.rmtree(folder, ignore_errors=True)
        total -= size


def _packs(version: str) -> bool:
    major, minor = version.split(".")[:2]
    return (int(major), int(minor)) >= _PACKED_SINCE and platform.machine() in _PACKED_MACHINES


def _state(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns}"


def _cpu() -> str:
    """Return what tells this processor from one with other instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = [f"model name: {platform.processor()}"]
    facts = [line for line in lines if line.partition(":")[0].strip() in _CPU_FACTS]
    return "\n".join([platform.machine(), *facts])
