"""Measure routers where one modality holds what the other has lost, over the strength of the loss.

Every row asks about one object. The context names the object in full, and the picture shows it. Three things can be lost:
the object's region in the picture, masked or blurred, and the words of the context that name it. For each loss and strength the
script prints the share of right answers, with the router and without, and how often look-ups point at the right
source: of words that name the object, its cells; of cells that show it, its words. ``--plot`` draws the curves.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import Result, add_count, markdown_table, new_parser, run
from benchmarks.lookups import LookupFigures, score_lookups
from benchmarks.themes import THEMES, add_theme
from moir_edge.charts.dots import Dot, DotRow, dot_chart
from moir_edge.charts.standalone import stand_alone
from moir_edge.data.answers import Answer
from moir_edge.data.rows import Row
from moir_edge.demo.glyphs import SPLITS
from moir_edge.demo.named import LOSSES, NamedRow, as_rows, lose, named_rows
from moir_edge.evaluation.candidates import spec_of
from moir_edge.evaluation.candidates.checkpoint import CheckpointCandidate
from moir_edge.evaluation.diagnosis.routing import routing_map_of
from moir_edge.evaluation.measure import batches
from moir_edge.metrics import Interval, mean_interval
from moir_edge.metrics.scores import row_scores
from moir_edge.progress import Progress
from moir_edge.whole_files import write_whole

__all__ = ["STRENGTHS", "Point", "main", "measure_losses"]

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_ROWS = 200
_BATCH = 32
_MAX_NEW_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class Point:
    """One router at one strength of one loss.

    Attributes:
        loss: Of `LOSSES`.
        strength: From 0 to 1.
        score: Share of right answers with the router, in [0, 1].
        score_off: The same without it; None where the checkpoint has none.
        words: Look-ups of the words that name the object; None where the checkpoint has no router.
        cells: Look-ups of the cells that show it; None where the checkpoint has no router.
    """

    loss: str
    strength: float
    score: Interval
    score_off: Interval | None
    words: LookupFigures | None
    cells: LookupFigures | None

    def record(self) -> dict[str, Any]:
        """Return the figures as plain JSON data."""
        return {
            "loss": self.loss,
            "strength": self.strength,
            "score": self.score.model_dump(),
            "score_off": None if self.score_off is None else self.score_off.model_dump(),
            "words": None if self.words is None else self.words.record(),
            "cells": None if self.cells is None else self.cells.record(),
        }


def measure_losses(
    candidate: CheckpointCandidate,
    rows: Sequence[NamedRow],
    folder: Path,
    *,
    losses: Sequence[str] = LOSSES,
    strengths: Sequence[float] = STRENGTHS,
) -> list[Point]:
    """Measure one checkpoint over all losses and strengths.

    Args:
        candidate: A checkpoint, with a router or without.
        rows: Rows as they were made; of the demo, or any others.
        folder: For the pictures.
        losses: Of `moir_edge.demo.named.LOSSES`.
        strengths: From 0 to 1.
    """
    points = []
    for loss in losses:
        for strength in strengths:
            lost = [lose(row, loss, strength) for row in rows]
            written = as_rows(lost, folder / f"{loss}-{strength:g}")
            points.append(_point(candidate, loss, strength, lost, written))
    return points


def _point(
    candidate: CheckpointCandidate,
    loss: str,
    strength: float,
    lost: Sequence[NamedRow],
    rows: Sequence[Row],
) -> Point:
    score = _score(candidate, rows)
    if not candidate.facts.has_router:
        return Point(
            loss=loss, strength=strength, score=score, score_off=None, words=None, cells=None
        )
    from moir_edge.router import router_disabled

    with router_disabled(candidate.model):
        off = _score(candidate, rows)
    route = routing_map_of(candidate)
    words, cells = score_lookups(
        [(route(row), one.named) for row, one in zip(rows, lost, strict=True)]
    )
    return Point(loss=loss, strength=strength, score=score, score_off=off, words=words, cells=cells)


def _score(candidate: CheckpointCandidate, rows: Sequence[Row]) -> Interval:
    answers: dict[int, Answer] = {}
    for group in batches(rows, _BATCH):
        answers.update(zip(group, candidate.answer([rows[at] for at in group]), strict=True))
    scores = row_scores(rows, [answers[at] for at in range(len(rows))])
    return mean_interval([score or 0.0 for score in scores])


def _table(measured: dict[str, list[Point]]) -> str:
    head = ("checkpoint", "lost", "strength", "right", "router off", "words → object", "× chance", "cells → words", "× chance")  # fmt: skip
    return markdown_table(
        head,
        [
            (
                name,
                one.loss,
                f"{one.strength:g}",
                _percent(one.score),
                _percent(one.score_off),
                *_lookup_cells(one.words),
                *_lookup_cells(one.cells),
            )
            for name, points in measured.items()
            for one in points
        ],
        right=range(2, len(head)),
    )


def _percent(share: Interval | None) -> str:
    return "–" if share is None else f"{share.value:.1%}"


def _lookup_cells(figures: LookupFigures | None) -> tuple[str, str]:
    if figures is None or figures.hits is None:
        return "–", "–"
    times = figures.times_chance
    return f"{figures.hits:.0%}", "–" if times is None else f"{times.value:.1f}"


def _plot(measured: dict[str, list[Point]]) -> str:
    """Draw the scores: a row for each loss and strength, a dot for each checkpoint, its router off as the last series."""
    names = list(measured)
    rows = []
    for points in zip(*measured.values(), strict=True):
        dots = [
            _dot(at, name, one.score)
            for at, (name, one) in enumerate(zip(names, points, strict=True))
        ]
        if points[0].score_off is not None:
            dots.append(_dot(len(names), f"{names[0]}, router off", points[0].score_off))
        name = f"{points[0].loss} {points[0].strength:g}"
        rows.append(DotRow(name=name, detail="", dots=tuple(dots)))
    caption = "right answers, %, over the strength of the loss"
    return stand_alone(
        dot_chart("What the other modality holds", rows, (0.0, 100.0), base=None, caption=caption)
    )


def _dot(series: int, name: str, share: Interval) -> Dot:
    value, low, high = (100 * part for part in (share.value, share.low, share.high))
    return Dot(series=series, value=value, low=low, high=high, tip=f"{name}: {value:.1f} %")


def compare_losses(options: argparse.Namespace, progress: Progress) -> Result:
    """Measure the checkpoints of the command line.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    from moir_edge.demo import checkpoint_path

    checkpoints = options.checkpoints or [checkpoint_path()]
    rows = named_rows(
        options.split, count=options.rows, seed=options.seed, theme=THEMES[options.theme]
    )
    measured = {}
    with tempfile.TemporaryDirectory() as scratch:
        for done, checkpoint in enumerate(checkpoints):
            progress("checkpoints", done, len(checkpoints))
            spec = spec_of(checkpoint, threads=1, max_new_tokens=_MAX_NEW_TOKENS)
            measured[str(checkpoint) if options.checkpoints else "demo"] = measure_losses(
                CheckpointCandidate(spec),
                rows,
                Path(scratch),
                losses=options.loss or LOSSES,
                strengths=options.strength or STRENGTHS,
            )
        progress("checkpoints", len(checkpoints), len(checkpoints))
    if options.plot is not None:
        write_whole(options.plot, _plot(measured))
    record = {name: [one.record() for one in points] for name, points in measured.items()}
    return Result(text=_table(measured), record=record)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("lost_content", __doc__)
    parser.add_argument(
        "checkpoints", nargs="*", type=Path, help="checkpoints (default: the demo's)"
    )
    add_count(parser, "--rows", _ROWS, "rows at each strength")
    parser.add_argument(
        "--split", choices=SPLITS, default="test", help="of the pictures (default: test)"
    )
    add_theme(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the rows (default: 0)")
    parser.add_argument("--loss", choices=LOSSES, action="append", help="repeatable (default: all)")
    parser.add_argument(
        "--strength", type=float, action="append", help="0 to 1, repeatable (default: five)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the curves as an SVG")
    return run(parser, compare_losses, arguments)


if __name__ == "__main__":
    sys.exit(main())
