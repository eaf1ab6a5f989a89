"""Measure the demo router's density and sources on scenes whose content is known.

    python -m benchmarks.density [--rows 80] [--fresh 5] [--json] [--card FOLDER]

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

import numpy as np
import numpy.typing as npt
from PIL import Image

from moir_edge.data.rows import Row, read_rows
from moir_edge.errors import DataError, MoirEdgeError
from moir_edge.evaluation.diagnosis.routing import routing_map_of
from moir_edge.finite import json_text
from moir_edge.runtime import RoutingMap
from moir_edge.runtime.image_geometry import Box

__all__ = ["DensityFigures", "has_digit", "main", "measure"]

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
    return measure([(route(row), [Image.open(path) for path in row.images]) for row in rows])


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
    lines = [
        "| router | density on cells with a digit | on empty cells | correlation with contrast "
        "| best source has a digit | chance |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in figures.items():
        lines.append(
            f"| {name} | {one.on_digits:.2f} | {one.on_empty:.2f} | {one.contrast_correlation:+.2f} "
            f"| {one.best_on_digit:.0%} of {one.lookups:,} | {one.digit_share:.0%} |"
        )
    return "\n".join(lines)


def _write_card(folder: Path, figures: dict[str, DensityFigures], rows: int) -> None:
    from benchmarks.demo_training.card import write_card

    log = folder / "training_log.json"
    text = log.read_text(encoding="utf-8")
    record = json.loads(text)
    routers = {name: asdict(one) for name, one in figures.items()}
    record["density"] = {"rows": rows, "routers": routers}
    log.write_text(json_text(record, indent=1) + "\n", encoding="utf-8")
    write_card(record, folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print."""
    from moir_edge.demo import checkpoint_path, demo_rows, write_jsonl
    from moir_edge.weights.whole import quiet_transformers

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.density",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=_ROWS, help="rows of the test split")
    parser.add_argument("--fresh", type=int, default=5, help="fresh routers beside it")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--card", type=Path, metavar="FOLDER", help="checkpoint whose card is rewritten"
    )
    given = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = read_rows(write_jsonl(demo_rows("test", count=given.rows, seed=0), Path(folder)))
            figures = {"trained": _figures(checkpoint_path(), rows)}
            for seed in range(given.fresh):
                with quiet_transformers(), _fresh(checkpoint_path(), seed) as copy:
                    figures[f"fresh, seed {seed}"] = _figures(copy, rows)
        if given.card is not None:
            _write_card(given.card, figures, given.rows)
    except MoirEdgeError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    records = {name: asdict(one) for name, one in figures.items()}
    sys.stdout.write((json_text(records, indent=1) if given.json else _table(figures)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
