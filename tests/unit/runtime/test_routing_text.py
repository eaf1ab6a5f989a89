"""The routing map as text says what the map says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from moir_edge import load
from moir_edge.runtime.routing_text import routing_lines


def picture(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    return Image.fromarray(noise)


def test_lines_hold_the_cells_and_the_sources_of_the_map(tiny_bundle: Path) -> None:
    found = load(tiny_bundle).routing_map("What is left of the cup?", [picture(0), picture(1)])
    lines = routing_lines(found)
    cells = dict(found.cells())
    titles = [line for line in lines if "cells enriched" in line]
    assert [title.partition(":")[0] for title in titles] == ["image 1", "image 2"]
    enriched = sum(found.gate[row] > 0 for row in cells)
    assert sum(int(re.findall(r": (\d+) of", title)[0]) for title in titles) == enriched
    marks = "".join(line for line in lines if re.fullmatch(r"  [·o1-9 ]+", line))
    assert len(re.findall(r"[1-9]", marks)) == enriched
    tokens = [line for line in lines if "←" in line]
    assert len(tokens) == min(12, len(found.routed))
    strongest = max(found.routed, key=lambda one: one.gate)
    assert tokens[0].startswith(f"  {strongest.gate:.2f}  ")
    first = strongest.sources[0]
    if first.word is not None:
        assert f'← "{first.word}"' in tokens[0]
    else:
        assert first.cell is not None
        assert f"row {first.cell.row + 1} column {first.cell.column + 1}" in tokens[0]
    assert (lines[-1] == f"  and {len(found.routed) - 12} weaker ones") == (len(found.routed) > 12)


def test_a_map_without_routed_tokens_is_one_line(tiny_bundle: Path) -> None:
    found = load(tiny_bundle).routing_map("What?", picture(0))
    found.gate[:] = 0
    assert routing_lines(found) == ["the router enriched no token"]
