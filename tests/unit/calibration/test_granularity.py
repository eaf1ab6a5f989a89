from __future__ import annotations

import pytest

from moir_edge.calibration import PerBlock, PerOutputChannel
from moir_edge.errors import ShapeError


def test_scale_shapes_of_the_worked_example() -> None:
    assert PerOutputChannel().scale_shape((576, 1536)) == (1536,)
    assert PerBlock(block_size=32).scale_shape((576, 1536)) == (18, 1536)


def test_rows_per_scale() -> None:
    assert PerOutputChannel().block_rows((576, 1536)) == 576
    assert PerBlock(block_size=64).block_rows((576, 1536)) == 64


@pytest.mark.parametrize("rows", [16, 48, 33])
def test_rows_that_do_not_fill_the_blocks_are_refused(rows: int) -> None:
    with pytest.raises(ShapeError, match="no multiple of the block size 32"):
        PerBlock().scale_shape((rows, 8))


def test_an_unusual_block_size_is_refused() -> None:
    with pytest.raises(ShapeError, match="block_size is 24; expected 16, 32"):
        PerBlock(block_size=24)


def test_a_vector_is_no_weight() -> None:
    with pytest.raises(ShapeError, match="is not a \\(K, N\\) matrix"):
        PerOutputChannel().scale_shape((8,))
