"""Every writer of the product, each with the smallest content that is real.

A writer is prepared once (models loaded, graphs traced, engines built); what a trial repeats is the writing. It writes versions
1, 2 and 3 of its output, and a version is recognized by all of its bytes.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from moir_edge import replacing
from moir_edge.errors import DataError
from moir_edge.ownership import FolderKind
from moir_edge.staging import staged_folder
from moir_edge.whole_files import whole_file

__all__ = ["KEEPERS", "NEWCOMERS", "WRITERS", "Write"]

Write = Callable[[Path, int], object]
"""Write one version of the output, replacing what is there."""

_KIND = FolderKind(name="report", marker="report.json", error=DataError, keys=("version",))


def _folder(scratch: Path) -> Write:
    """A small folder, replaced by an exchange."""

    def write(output: Path, version: int) -> None:
        with staged_folder(output, _KIND, force=True, keep_others=True) as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "data").write_bytes(bytes([version]) * 3000)
            (folder / "report.json").write_text(f'{{"version": {version}}}')

    return write


def _folder_by_renames(scratch: Path) -> Write:
    """The same where the system cannot exchange two names."""
    write = _folder(scratch)

    def renamed(output: Path, version: int) -> None:
        replacing.exchange = lambda *_: False
        write(output, version)

    return renamed


def _folder_by_removal(scratch: Path) -> Write:
    """The same where a folder cannot be moved, as in a container whose image holds it."""
    write = _folder(scratch)

    def refuse(left: Path, right: Path) -> bool:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    def removed(output: Path, version: int) -> None:
        replacing.exchange = refuse
        write(output, version)

    return removed


def _file(scratch: Path) -> Write:
    """A single file, as `run --routing-json`, kernel caches and records of benchmarks are written."""

    def write(output: Path, version: int) -> None:
        with whole_file(output) as stream:
            stream.write(bytes([version]) * 20_000)
            stream.write(b"end")

    return write


def _routing_map(scratch: Path) -> Write:
    """`run --routing-map`: a picture of a real routing map."""
    from PIL import Image

    import moir_edge
    from moir_edge.cli.run import _write_maps

    bundle = _traced_bundle(scratch)
    model = moir_edge.load(bundle, threads=1)
    pictures = [Image.new("RGB", (24, 24), "teal")]
    result = model.generate("What is it?", pictures, max_new_tokens=2)

    def write(output: Path, version: int) -> None:
        _write_maps(model, result, f"answer {version}", pictures, output, None)

    return write


def _calibration_cache(scratch: Path) -> Write:
    """What `export --calib-cache` keeps."""
    from moir_edge.calibration.observers import ActivationObserver
    from moir_edge.calibration.state import CollectionState

    observer = ActivationObserver(6, gram=True)
    observer.update(np.random.default_rng(0).normal(size=(3, 11, 6)).astype(np.float32))

    class Rows:
        count, sha256 = 0, "0" * 64

    def write(output: Path, version: int) -> None:
        state = CollectionState(output, {"decoder": {"a": observer}}, "0" * 64)
        rows: Any = Rows()
        rows.count = version
        state.advance(rows)
        state.save()

    return write


def _report(scratch: Path) -> Write:
    """A report of `compare`; `bench` and `diagnose` take the same function."""
    from moir_edge.evaluation.comparison.page import render_html
    from moir_edge.evaluation.writing import write_report
    from tests.unit.evaluation.fakes import make_report

    report = make_report(scratch)

    def write(output: Path, version: int) -> None:
        one = report.model_copy(update={"version": f"0.{version}"})
        write_report(one, render_html, output, force=True)

    return write


def _retrofit(scratch: Path) -> Write:
    """The whole command `retrofit`."""
    import torch

    from moir_edge.cli.retrofit import retrofit
    from tests.unit.conftest import save_checkpoint

    checkpoint = save_checkpoint(scratch / "llava", "llava")

    def write(output: Path, version: int) -> None:
        torch.manual_seed(version)
        retrofit(str(checkpoint), output, rank=4, top_k=version, force=True, quiet=True)

    return write


def _tuned(scratch: Path) -> Write:
    """The checkpoint that `tune` writes at its end."""
    from moir_edge.checkpoint import load_checkpoint
    from moir_edge.tuning.run import TuneReport, _write
    from tests.unit.conftest import save_checkpoint

    loaded = load_checkpoint(
        save_checkpoint(scratch / "llava", "llava", router=True), exported=False
    )

    def write(output: Path, version: int) -> None:
        report = TuneReport(
            settings={}, source={}, data={}, rows=1, conditions={}, steps=version, trained_parameters=1,
            parameters=1, first_loss=1.0, last_loss=1.0, first_eval_loss=None, eval_loss=None, seconds=1.0,
            objectives={}, balance=None, log=[],
        )  # fmt: skip
        _write(loaded, output, report, force=True)

    return write


def _export(scratch: Path) -> Write:
    """All that `export` does once a model is traced: graphs, parity against torch, reports, manifest."""
    from moir_edge.export import assemble

    traced = _traced(scratch)

    def write(output: Path, version: int) -> None:
        assemble(traced, output, force=True, parity_rtol=10.0**-version)

    return write


def _engines(scratch: Path) -> Write:
    """`build` of a bundle that has no engines yet; they are taken from another bundle, to save the compilation."""
    from moir_edge.bundle import staged_bundle
    from moir_edge.engines import add_engines
    from tests.unit.engines.test_engine_building import bundle_maker

    plain, _ = bundle_maker(scratch)()
    donor = scratch / "donor"
    shutil.copytree(plain, donor)
    add_engines(donor, "rtx-40")

    def write(output: Path, version: int) -> None:
        if version == 1:
            with staged_bundle(output, force=True) as folder:
                shutil.copytree(plain, folder, dirs_exist_ok=True)
        else:
            add_engines(output, "rtx-40", refit=donor)

    return write


def _traced(scratch: Path) -> Any:
    from moir_edge.checkpoint import load_checkpoint
    from moir_edge.export import trace_components
    from tests.unit.conftest import save_checkpoint

    folder = save_checkpoint(scratch / "llava", "llava", router=True)
    return trace_components(load_checkpoint(folder))


def _traced_bundle(scratch: Path) -> Path:
    from moir_edge.export import assemble

    return assemble(_traced(scratch), scratch / "bundle")


WRITERS: dict[str, Callable[[Path], Write]] = {
    "folder": _folder,
    "folder-by-renames": _folder_by_renames,
    "folder-by-removal": _folder_by_removal,
    "new-folder": _folder,
    "file": _file,
    "new-file": _file,
    "calibration-cache": _calibration_cache,
    "report": _report,
    "retrofit": _retrofit,
    "tune": _tuned,
    "export": _export,
    "engines": _engines,
    "routing-map": _routing_map,
}
"""Name -> function that prepares a writer in an empty folder."""

KEEPERS = frozenset({"folder", "folder-by-renames", "folder-by-removal", "engines"})
"""Writers that leave the user's own files in the output."""

NEWCOMERS = frozenset({"new-folder", "new-file"})
"""Writers that find nothing at the output."""
