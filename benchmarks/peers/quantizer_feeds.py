"""The inputs of single graphs over calibration rows, as files: what quantizers take that know graphs only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.bundle import open_bundle
from moir_edge.calibration.collection import run_row
from moir_edge.calibration.rows import CalibrationRows
from moir_edge.graphs.chain import GraphChain
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
    rows = CalibrationRows(data, Processor(bundle, facts), limit=10**9, max_bad_rows=0)
    chain = _Recorder(bundle, dict.fromkeys(opened.manifest.components, "fp32"), facts)
    partial = folder.with_name(f"{folder.name}.partial")
    for name in COMPONENTS:
        (partial / name).mkdir(parents=True, exist_ok=True)
    for row in rows:
        run_row(chain, row, DECODE_STEPS, facts)
        for name in COMPONENTS:
            for feed in chain.feeds.pop(name, []):
                at = len(list((partial / name).iterdir()))
                np.savez(partial / name / f"{at:06d}.npz", allow_pickle=False, **feed)
    partial.rename(folder)


def read_feeds(folder: Path, component: str) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Give the feeds of a component one by one, in order."""
    for path in sorted((folder / component).iterdir()):
        with np.load(path) as archive:
            yield dict(archive)


class _Recorder(GraphChain):
    """Keeps what each component is fed."""

    feeds: dict[str, list[Feed]]

    def _run(self, name: str, feed: Feed) -> dict[str, npt.NDArray[Any]]:
        self.__dict__.setdefault("feeds", {}).setdefault(name, []).append(feed)
        return super()._run(name, feed)
