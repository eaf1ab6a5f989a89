"""Tables of figures on narrow terminals: whole cells, all columns, one block after the other."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from moir_edge.evaluation.report.terminal import column_blocks, print_figures

HEAD = [f"bundle-{at:02}" for at in range(12)]
ROWS = [
    ("TTFT median", [f"{at}.25 ms" for at in range(12)]),
    ("recovery", [f"{at}.5 % (1.0–99.9)" for at in range(12)]),
]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 400])
def test_no_cell_is_cut_or_folded(width: int) -> None:
    text = io.StringIO()
    print_figures(Console(file=text, width=width), "Figures", HEAD, ROWS)
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for cell in (cell for _, cells in ROWS for cell in cells):
        assert sum(cell in line for line in lines) >= 1
    assert all(any(name in line for line in lines) for name in HEAD)
    blocks = sum("Figures" in line for line in lines)
    assert (blocks == 1) == (width == 400)


def test_a_column_that_is_too_wide_stands_alone() -> None:
    rows = [("x", ["a" * 50, "b" * 50])]
    assert list(column_blocks(20, ["one", "two"], rows)) == [range(1), range(1, 2)]


def test_no_column_and_no_row() -> None:
    assert list(column_blocks(80, [], [])) == [range(0)]
