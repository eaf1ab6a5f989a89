"""Themes that scripts can be told by name, and the option that names one."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from benchmarks.icons.theme import ICONS
from moir_edge.demo.theme import DIGITS, Theme

__all__ = ["THEMES", "add_theme"]

THEMES: Mapping[str, Theme] = {"digits": DIGITS, "icons": ICONS}


def add_theme(parser: argparse.ArgumentParser) -> None:
    """Add ``--theme``; `THEMES` has the theme of the name."""
    parser.add_argument(
        "--theme",
        choices=tuple(THEMES),
        default="digits",
        help="pictures of the scenes, those that the checkpoints know (default: digits)",
    )
