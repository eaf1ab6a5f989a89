"""The inputs of single graphs over calibration rows, as files: what quantizers take that know graphs only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.bundle import open_bundle
from moir_edge.bundle.files import ModelFiles
from moir_edge.calibration.passes import run_row
from moir_edge.calibration.rows import CalibrationRows
from moir_edge.graphs.sessions import TappedSessions
from moir_edge.runtime.component import Component
from moir_edge.runtime.processor import Processor

__all__ = ["COMPONENTS", "read_feeds", "write_feeds"]

COMPONENTS = ("vision", "decoder")
DECODE_STEPS = 4

Feed = Mapping[str, npt.NDArray[Any]]


def write_feeds(bundle: Path, data: Path, folder: Path) -> None:
    """Run every row as calibration does, prompt and up to four tokens, and keep what `COMPONENTS` are fed.

    Args:
        bundle: The float32 bundle.
        data: JSON lines.
        folder: Takes ``<component>/<number>.npz``.
    """
    opened = open_bundle(bundle, verify=False)
    facts = opened.manifest.model
    rows = CalibrationRows(data, Processor(ModelFiles(bundle), facts), limit=10**9, max_bad_rows=0)
    sessions = TappedSessions(bundle, dict.fromkeys(opened.manifest.components, "fp32"), facts)
    recorders = {name: _Recorder(sessions.components[name]) for name in COMPONENTS}
    sessions.components.update(recorders)
    partial = folder.with_name(f"{folder.name}.partial")
    for name in COMPONENTS:
        (partial / name).mkdir(parents=True, exist_ok=True)
    for row in rows:
        run_row(sessions, row, DECODE_STEPS)
        for name in COMPONENTS:
            for feed in recorders[name].feeds:
                at = len(list((partial / name).iterdir()))
                np.savez(partial / name / f"{at:06d}.npz", allow_pickle=False, **feed)
            recorders[name].feeds.clear()
    partial.rename(folder)


def read_feeds(folder: Path, component: str) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Give the feeds of a component one by one, in order."""
    for path in sorted((folder / component).iterdir()):
        with np.load(path) as archive:
            yield dict(archive)


class _Recorder(Component):
    """A component that keeps what it is fed."""

    def __init__(self, component: Component) -> None:
        super().__init__(component.session, component.name)
        self.feeds: list[Feed] = []

    def arrays(
        self, feed: Feed, outputs: Sequence[str], *, give_back: bool = False
    ) -> list[npt.NDArray[Any]]:
        self.feeds.append(dict(feed))
        return super().arrays(feed, outputs, give_back=give_back)

    def values(self, feed: Mapping[str, Any], outputs: Mapping[str, str]) -> list[Any]:
        arrays = {
            name: value if isinstance(value, np.ndarray) else value.numpy()
            for name, value in feed.items()
        }
        self.feeds.append(arrays)
        return super().values(feed, outputs)
