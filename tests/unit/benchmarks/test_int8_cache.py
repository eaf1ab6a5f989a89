"""Attention on a cache in int8: a quarter of the bytes, and near the attention that numpy computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import int8_cache
from benchmarks.int8_cache import Case, Layer


def attention(case: Case) -> np.ndarray:
    """The same numbers as `Layer`'s, in numpy: the new tokens' keys and values take the last places."""
    draw = np.random.default_rng(0)
    past = draw.normal(size=(2, 3, case.context, 64)).astype(np.float32)
    query = draw.normal(size=(case.new, 9, 64)).astype(np.float32)
    fresh = draw.normal(size=(2, case.new, 3, 64)).astype(np.float32).transpose(0, 2, 1, 3)
    key, value = np.concatenate([past[:, :, : case.context - case.new], fresh], axis=2)
    result = np.empty_like(query)
    for token in range(case.new):
        seen = case.context - case.new + token + 1
        for head in range(9):
            scores = key[head // 3, :seen] @ query[token, head] / 8
            weights = np.exp(scores - scores.max())
            result[token, head] = weights @ value[head // 3, :seen] / weights.sum()
    return result.reshape(1, case.new, -1)


@pytest.mark.parametrize("case", [Case(40, 1), Case(24, 24)])
def test_both_caches_give_the_attention(case: Case) -> None:
    plain, small = (Layer(case, int8=int8) for int8 in (False, True))
    assert plain() >= 0
    assert small() >= 0
    assert small.bytes * 4 == plain.bytes
    expected = attention(case)
    np.testing.assert_allclose(plain.output(), expected, atol=1e-5)  # rounding of float32 sums
    error = np.linalg.norm(small.output() - expected) / np.linalg.norm(expected)
    # A step is 1/127 of the largest of some tens of normal numbers, so a rounding is 0.006 of a number's size, and some more after softmax.
    assert 0 < error < 0.03


def test_the_table_goes_into_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n{}\n{}\nafter\n".format(*int8_cache.MARKS))
    assert int8_cache.main(["--rounds", "2", "-q", "--write", str(page)]) == 0
    text = page.read_text()
    assert "| a token, 4,000 in all | 6.14 MB | 1.54 MB |" in text
    assert text.endswith("after\n")
