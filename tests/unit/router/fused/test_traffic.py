"""The router's bytes, counted by hand."""

from __future__ import annotations

import pytest

from moir_edge.router.fused import router_traffic


def test_bytes_of_a_small_call() -> None:
    found = router_traffic(image_tokens=10, text_tokens=6, hidden=8, rank=2, element_bytes=2)
    # 16 rows of 16 bytes in and out; per side four 8 × 2 matrices and four vectors of 8, float32.
    assert found.least_bytes == 2 * 16 * 16 + 2 * (4 * 16 + 4 * 8) * 4
    # Every row read twice and written once; 12 numbers per token written and read.
    assert found.moved_bytes == 3 * 16 * 16 + 2 * (4 * 16 + 4 * 8) * 4 + 2 * 16 * 12 * 4


def test_limit_of_the_target_size() -> None:
    found = router_traffic(image_tokens=1024, text_tokens=64, hidden=2048, rank=32, element_bytes=2)
    # 1,088 rows of 4 KiB twice, and 2 × 4 × (2048·32 + 2048) float32 weights.
    assert found.least_bytes == 2 * 1088 * 4096 + 8 * (65536 + 2048) * 4
    assert found.limit_ms(1e12) == pytest.approx(0.011076, rel=1e-3)
    assert found.moved_bytes > found.least_bytes


def test_batch_reads_the_weights_once() -> None:
    one, four = (
        router_traffic(
            image_tokens=4, text_tokens=4, hidden=8, rank=2, element_bytes=4, batch=batch
        ).least_bytes
        for batch in (1, 4)
    )
    weights = 2 * (4 * 16 + 4 * 8) * 4
    assert four - weights == 4 * (one - weights)
