"""Measure what a router's density and sources mean, on demo rows whose content is known.

For each checkpoint with a router, the script prints the mean density of cells with and without a digit, its correlation with
the contrast of the cells, how well it tells clean cells from the same cells masked or blurred (AUROC), how often the best
source of a word is a cell with a digit, and how often the best source of a word that names a digit is that very digit.
Beside the first checkpoint stand fresh routers, whose densities come from random weights. ``--card`` writes the figures
into a checkpoint's training log and model card.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import Result, add_count, markdown_table, new_parser, run, write_json
from benchmarks.density_figures import (
    DensityFigures,
    Pair,
    RankFigures,
    measure,
    measure_ranks,
)
from benchmarks.lookups import LookupFigures, score_lookups
from benchmarks.themes import THEMES, add_theme
from moir_edge.data.degradations import parse_degradation
from moir_edge.data.rows import Row, read_rows
from moir_edge.data.variants import ImageStore, degraded_rows
from moir_edge.demo.glyphs import SPLITS
from moir_edge.demo.named import NamedObject
from moir_edge.evaluation.diagnosis.routing import routing_map_of
from moir_edge.progress import Progress
from moir_edge.runtime import RoutingMap
from moir_edge.runtime.images import read_image

__all__ = ["DEGRADATIONS", "RouterFigures", "compare_routers", "main", "measure_router"]

DEGRADATIONS = {"masked": "mask-region=0.3", "blurred": "blur=3.5px"}
"""What a cell is compared with: itself under each of these."""

_ROWS = 200


@dataclass(frozen=True, kw_only=True)
class RouterFigures:
    """Everything that is measured of one router.

    Attributes:
        density: Of the cells of some rows.
        ranks: Of clean against degraded cells, by name of the degradation.
        named: Look-ups of words that name an object.
    """

    density: DensityFigures
    ranks: dict[str, RankFigures]
    named: LookupFigures

    def record(self) -> dict[str, Any]:
        """Return the figures as plain JSON data."""
        return {
            **asdict(self.density),
            **{f"{name}_{key}": value for name, one in self.ranks.items() for key, value in asdict(one).items()},
            **{f"named_{key}": value for key, value in self.named.record().items()},
        }  # fmt: skip


def measure_router(
    route: Callable[[Row], RoutingMap],
    rows: Sequence[Row],
    named: Sequence[tuple[Row, NamedObject]],
    folder: Path,
) -> RouterFigures:
    """Measure one router.

    Args:
        route: Makes the routing map of a row.
        rows: Rows of the demo.
        named: Rows with the object that their text names.
        folder: For degraded pictures; exists.
    """
    maps = [route(row) for row in rows]
    pictures = [[read_image(path) for path in row.images] for row in rows]
    ranks = {}
    for name, text in DEGRADATIONS.items():
        degraded = degraded_rows(rows, parse_degradation(text), ImageStore(folder), seed=0).rows
        ranks[name] = measure_ranks(
            [
                Pair(
                    clean=clean,
                    degraded=route(row),
                    images=images,
                    degraded_images=[read_image(path) for path in row.images],
                )
                for clean, images, row in zip(maps, pictures, degraded, strict=True)
            ]
        )
    words, _ = score_lookups([(route(row), thing) for row, thing in named])
    density = measure(list(zip(maps, pictures, strict=True)))
    return RouterFigures(density=density, ranks=ranks, named=words)


def route_of(checkpoint: Path) -> Callable[[Row], RoutingMap]:
    """Open a checkpoint and return the function that makes its routing map of a row."""
    from moir_edge.evaluation.candidates import CandidateSpec
    from moir_edge.evaluation.candidates.checkpoint import CheckpointCandidate

    spec = CandidateSpec(
        name="router", source=str(checkpoint), kind="checkpoint", threads=1, max_new_tokens=1
    )
    return routing_map_of(CheckpointCandidate(spec))


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


_Line = tuple[str, str, Callable[[RouterFigures], str]]
"""Measure, target, and how a router's figure is written."""


def _rank_lines(name: str, text: str) -> list[_Line]:
    return [
        (f"AUROC, digits clean against {name} ({text})", "≥ 0.80", lambda one: f"{one.ranks[name].auroc:.2f}"),
        ("each digit's cell above itself", "", lambda one: f"{one.ranks[name].ranked:.0%}"),
        ("AUROC, all cells, empty ones too", "", lambda one: f"{one.ranks[name].auroc_all:.2f}"),
    ]  # fmt: skip


def _table(figures: dict[str, RouterFigures]) -> str:
    """Return one line per measure, one column per router."""
    lines: list[_Line] = [
        ("density on cells with a digit", "", lambda one: f"{one.density.on_digits:.2f}"),
        ("density on empty cells", "", lambda one: f"{one.density.on_empty:.2f}"),
        ("correlation with contrast", "≥ +0.40", lambda one: _signed(one.density.contrast_correlation)),
        ("the same of ranks", "", lambda one: _signed(one.density.contrast_rank_correlation)),
        *(line for name, text in DEGRADATIONS.items() for line in _rank_lines(name, text)),
        ("best source of a word has a digit", "", lambda one: _share(one.density.best_on_digit, one.density.lookups)),
        ("chance", "", lambda one: f"{one.density.digit_share:.0%}"),
        ("best source of a naming word is the named digit", "", lambda one: _share(one.named.hits, one.named.lookups)),
        ("times chance", "≥ 2", lambda one: _times(one.named)),
    ]  # fmt: skip
    return markdown_table(
        ("measure", "target", *figures),
        [(title, target, *map(cell, figures.values())) for title, target, cell in lines],
    )


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _share(hits: float | None, lookups: int) -> str:
    return "–" if hits is None else f"{hits:.0%} of {lookups:,}"


def _times(named: LookupFigures) -> str:
    times = named.times_chance
    return "–" if times is None else f"{times.value:.2f} ({times.low:.2f}–{times.high:.2f})"


def _write_card(folder: Path, routers: dict[str, dict[str, Any]], rows: int) -> None:
    from benchmarks.demo_training.card import write_card

    log = folder / "training_log.json"
    record = json.loads(log.read_text(encoding="utf-8"))
    record["density"] = {"rows": rows, "routers": routers}
    write_json(log, record)
    write_card(record, folder)


def compare_routers(options: argparse.Namespace, progress: Progress) -> Result:
    """Measure routers and fresh ones.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    from moir_edge.demo import checkpoint_path, demo_rows, write_jsonl
    from moir_edge.demo.named import as_rows, named_rows
    from moir_edge.weights.whole import quiet_transformers

    theme = THEMES[options.theme]
    first, *others = options.checkpoints or [checkpoint_path()]
    total = 1 + options.fresh + len(others)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = read_rows(
            write_jsonl(
                demo_rows(options.split, count=options.rows, seed=0, theme=theme), folder / "rows"
            )
        )
        found = named_rows(options.split, count=options.rows, seed=0, theme=theme)
        named = list(
            zip(as_rows(found, folder / "named"), (one.named for one in found), strict=True)
        )

        def figures(checkpoint: Path) -> RouterFigures:
            return measure_router(route_of(checkpoint), rows, named, folder)

        progress("routers", 0, total)
        measured = {"trained" if not options.checkpoints else first.name: figures(first)}
        for other in others:
            progress("routers", len(measured), total)
            measured[str(other)] = figures(other)
        for seed in range(options.fresh):
            progress("routers", len(measured), total)
            with quiet_transformers(), _fresh(first, seed) as copy:
                measured[f"fresh, seed {seed}"] = figures(copy)
        progress("routers", total, total)
    record = {name: one.record() for name, one in measured.items()}
    if options.card is not None:
        _write_card(options.card, record, options.rows)
    return Result(text=_table(measured), record=record)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("density", __doc__)
    parser.add_argument(
        "checkpoints", nargs="*", type=Path, help="checkpoints with a router (default: the demo's)"
    )
    add_count(parser, "--rows", _ROWS, "rows, and as many that name an object")
    parser.add_argument(
        "--split", choices=SPLITS, default="test", help="of the pictures (default: test)"
    )
    add_theme(parser)
    parser.add_argument(
        "--fresh", type=int, default=5, help="fresh routers beside the first (default: 5)"
    )
    parser.add_argument(
        "--card", type=Path, metavar="FOLDER", help="checkpoint whose card is rewritten"
    )
    return run(parser, compare_routers, arguments)


if __name__ == "__main__":
    sys.exit(main())
