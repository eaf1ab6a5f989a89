"""Measure the demo router's density and sources on scenes whose content is known.

A cell of the image *has a digit* where one of its pixels is brighter than any background of the demo. The script prints the
mean density of cells with and without a digit, the correlation of density and contrast (standard deviation of the cell's
pixels), and how often the best source of a word is a cell with a digit. Beside the shipped router stand fresh ones, whose
densities come from random weights. ``--card`` writes the figures into a checkpoint's training log and model card.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.common import Result, add_count, markdown_table, new_parser, run, write_json
from moir_edge.data.rows import Row, read_rows
from moir_edge.errors import DataError
from moir_edge.evaluation.diagnosis.routing import routing_map_of
from moir_edge.progress import Progress
from moir_edge.runtime import RoutingMap
from moir_edge.runtime.image_geometry import Box
from moir_edge.runtime.images import read_image

__all__ = ["DensityFigures", "compare_routers", "has_digit", "main", "measure"]

# Backgrounds stay under 85 of 255 in every channel, and the brightest channel of each digit's colour is over 160.
_BRIGHT = 120
_ROWS = 80


@dataclass(frozen=True, kw_only=True)
class DensityFigures:
    """Densities and sources of a router over the cells of some rows.

    Attributes:
        cells: Cells of all images.
        digit_share: Share of them that have a digit: what a blind choice of sources would hit.
        on_digits: Mean density of cells with a digit, in [0, 1].
        on_empty: Mean density of the others.
        contrast_correlation: Pearson correlation of density and contrast over all cells.
        lookups: Enriched words that took from the image.
        best_on_digit: Share of them whose best source has a digit.
    """

    cells: int
    digit_share: float
    on_digits: float
    on_empty: float
    contrast_correlation: float
    lookups: int
    best_on_digit: float


def has_digit(image: Image.Image, box: Box) -> bool:
    """Return whether a cell of a demo image shows a part of a digit."""
    return bool(_pixels(image, box).max() > _BRIGHT)


def measure(maps: Sequence[tuple[RoutingMap, Sequence[Image.Image]]]) -> DensityFigures:
    """Join densities and sources with what the cells show.

    Args:
        maps: Routing maps with the images of their prompts.

    Raises:
        DataError: There is no cell of one of the two kinds.
    """
    density, contrast, digit, best = [], [], [], []
    for routing, images in maps:
        for row, cell in routing.cells():
            pixels = _pixels(images[cell.image], cell.box)
            density.append(float(routing.scores[row]))
            contrast.append(float(pixels.mean(axis=2).std()))
            digit.append(has_digit(images[cell.image], cell.box))
        for token in routing.routed:
            cell_of_best = token.sources[0].cell if token.side == "text" and token.sources else None
            if cell_of_best is not None:
                best.append(has_digit(images[cell_of_best.image], cell_of_best.box))
    scores, marked = np.array(density), np.array(digit, bool)
    if not marked.any() or marked.all():
        raise DataError("the rows hold no cells with a digit or none without; give more rows")
    return DensityFigures(
        cells=len(scores),
        digit_share=float(marked.mean()),
        on_digits=float(scores[marked].mean()),
        on_empty=float(scores[~marked].mean()),
        contrast_correlation=float(np.corrcoef(scores, contrast)[0, 1]),
        lookups=len(best),
        best_on_digit=float(np.mean(best)) if best else float("nan"),
    )


def _pixels(image: Image.Image, box: Box) -> npt.NDArray[np.float64]:
    """Return the pixels of a cell, (height, width, 3)."""
    sides = (image.width, image.height, image.width, image.height)
    left, top, right, bottom = (round(part * side) for part, side in zip(box, sides, strict=True))
    return np.asarray(image.convert("RGB"), np.float64)[top:bottom, left:right]


def _figures(checkpoint: Path, rows: Sequence[Row]) -> DensityFigures:
    """Measure a checkpoint with a router."""
    from moir_edge.evaluation.candidates import CandidateSpec
    from moir_edge.evaluation.candidates.checkpoint import CheckpointCandidate

    spec = CandidateSpec(
        name="router", source=str(checkpoint), kind="checkpoint", threads=1, max_new_tokens=1
    )
    route = routing_map_of(CheckpointCandidate(spec))
    return measure([(route(row), [read_image(path) for path in row.images]) for row in rows])


@contextmanager
def _fresh(checkpoint: Path, seed: int) -> Iterator[Path]:
    """Give a copy of a checkpoint whose router has the same settings and new random weights."""
    import torch

    from moir_edge.router import RouterConfig, load_retrofitted, remove_router, retrofit

    model = load_retrofitted(checkpoint, dtype=torch.float32)
    record = dict(model.config.moir_router)
    frame = {name: record.pop(name, ()) for name in ("special_token_ids", "newline_token_ids")}
    remove_router(model)
    torch.manual_seed(seed)
    retrofit(model, RouterConfig.from_record(record), special_token_ids=frame["special_token_ids"])
    with tempfile.TemporaryDirectory() as folder:
        for path in checkpoint.iterdir():
            if path.suffix in (".json", ".jinja"):
                shutil.copy(path, folder)
        model.save_pretrained(folder)
        yield Path(folder)


def _table(figures: dict[str, DensityFigures]) -> str:
    return markdown_table(
        (
            "router",
            "density on cells with a digit",
            "on empty cells",
            "correlation with contrast",
            "best source has a digit",
            "chance",
        ),
        [
            (
                name,
                f"{one.on_digits:.2f}",
                f"{one.on_empty:.2f}",
                f"{one.contrast_correlation:+.2f}",
                f"{one.best_on_digit:.0%} of {one.lookups:,}",
                f"{one.digit_share:.0%}",
            )
            for name, one in figures.items()
        ],
    )


def _write_card(folder: Path, routers: dict[str, dict[str, Any]], rows: int) -> None:
    from benchmarks.demo_training.card import write_card

    log = folder / "training_log.json"
    record = json.loads(log.read_text(encoding="utf-8"))
    record["density"] = {"rows": rows, "routers": routers}
    write_json(log, record)
    write_card(record, folder)


def compare_routers(options: argparse.Namespace, progress: Progress) -> Result:
    """Measure the demo's router and fresh ones.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    from moir_edge.demo import checkpoint_path, demo_rows, write_jsonl
    from moir_edge.weights.whole import quiet_transformers

    total = 1 + options.fresh
    with tempfile.TemporaryDirectory() as folder:
        rows = read_rows(write_jsonl(demo_rows("test", count=options.rows, seed=0), Path(folder)))
        progress("routers", 0, total)
        figures = {"trained": _figures(checkpoint_path(), rows)}
        for seed in range(options.fresh):
            progress("routers", 1 + seed, total)
            with quiet_transformers(), _fresh(checkpoint_path(), seed) as copy:
                figures[f"fresh, seed {seed}"] = _figures(copy, rows)
        progress("routers", total, total)
    record = {name: asdict(one) for name, one in figures.items()}
    if options.card is not None:
        _write_card(options.card, record, options.rows)
    return Result(text=_table(figures), record=record)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("density", __doc__)
    add_count(parser, "--rows", _ROWS, "rows of the test split")
    parser.add_argument("--fresh", type=int, default=5, help="fresh routers beside it (default: 5)")
    parser.add_argument(
        "--card", type=Path, metavar="FOLDER", help="checkpoint whose card is rewritten"
    )
    return run(parser, compare_routers, arguments)


if __name__ == "__main__":
    sys.exit(main())
