"""The rule for sources, by hand."""

from __future__ import annotations

import numpy as np

from moir_edge.metrics.cosine import cosines
from moir_edge.metrics.sources import best_found, named_by_both, sources_found

REFERENCE = np.array([[3, 5], [3, 5], [4, -1], [-1, -1], [2, 6]])
OWN = np.array([[5, 3], [3, 9], [-1, -1], [4, 5], [-1, -1]])


def test_a_token_without_a_source_is_left_out_and_a_lost_source_is_not() -> None:
    # The same set; one of two; the only one lost; no source to find; both lost.
    assert sources_found(OWN, REFERENCE).tolist() == [1.0, 0.5, 0.0, 0.0]
    assert best_found(OWN, REFERENCE).tolist() == [0.0, 1.0, 0.0, 0.0]
    assert named_by_both(OWN, REFERENCE).tolist() == [True, True, False, False, False]


def test_an_absent_source_is_never_found() -> None:
    assert sources_found(np.array([[-1, -1]]), np.array([[7, -1]])).tolist() == [0.0]


def test_vectors_of_zeros() -> None:
    zero, one = np.zeros((1, 2)), np.ones((1, 2))
    assert cosines(zero, zero).tolist() == [1.0]
    assert cosines(zero, one).tolist() == cosines(one, zero).tolist() == [0.0]
