"""Draw the routing map of a checkpoint on one demo question; README shows the one of the shipped checkpoint.

``python -m benchmarks.routing_picture docs/routing-map.png`` draws that one again.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Result, new_parser, run
from benchmarks.themes import THEMES, add_theme
from moir_edge.data.rows import Row, read_rows
from moir_edge.demo import checkpoint_path, demo_rows, write_jsonl
from moir_edge.demo.glyphs import SPLITS
from moir_edge.evaluation.candidates import spec_of
from moir_edge.evaluation.candidates.checkpoint import CheckpointCandidate
from moir_edge.evaluation.diagnosis.routing import routing_map_of
from moir_edge.progress import Progress
from moir_edge.runtime.routing_picture import draw_routing_map
from moir_edge.whole_files import write_whole

__all__ = ["draw", "main"]

_MAX_NEW_TOKENS = 16


def draw(candidate: CheckpointCandidate, row: Row) -> bytes:
    """Return the routing map of a row with the answers with and without the router, as a PNG."""
    from moir_edge.router import router_disabled

    routed = candidate.answer([row])[0].text
    with router_disabled(candidate.model):
        plain = candidate.answer([row])[0].text
    answers = (routed.strip(), plain.strip())
    buffer = io.BytesIO()
    routing = routing_map_of(candidate)(row)
    draw_routing_map(routing, list(row.images), answers=answers).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def draw_question(options: argparse.Namespace, progress: Progress) -> Result:
    """Draw the question that the command line names.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    progress("picture", 0, 1)
    made = demo_rows(
        options.split, count=options.row + 1, tasks=("vqa",), theme=THEMES[options.theme]
    )
    spec = spec_of(options.checkpoint, threads=1, max_new_tokens=_MAX_NEW_TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        (row,) = read_rows(write_jsonl(made[-1:], Path(folder)))
        write_whole(options.picture, draw(CheckpointCandidate(spec), row))
    progress("picture", 1, 1)
    return Result(text=f"{options.picture}: {row.text} {row.answers[0]}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("routing_picture", __doc__, writes_json=False)
    parser.add_argument("picture", type=Path, help="PNG to write")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=checkpoint_path(),
        help="with a router (default: the demo's)",
    )
    parser.add_argument(
        "--row", type=int, default=0, help="which question (default: 0, the demo's)"
    )
    parser.add_argument(
        "--split", choices=SPLITS, default="test", help="of the pictures (default: test)"
    )
    add_theme(parser)
    return run(parser, draw_question, arguments)


if __name__ == "__main__":
    sys.exit(main())
