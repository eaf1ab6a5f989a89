"""AUROC and correlations against scikit-learn's and scipy's, and against values worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from moir_edge.errors import DataError, NotFiniteError
from moir_edge.metrics.ranking import auroc, pearson, ranks, spearman


def test_by_hand() -> None:
    # Pairs (3, 1) and (3, 2) are right, (2, 1) is right, (2, 2) counts half: 3.5 of 4.
    assert auroc([3.0, 2.0], [1.0, 2.0]) == 3.5 / 4
    assert ranks([30.0, 10.0, 30.0, 20.0]).tolist() == [3.5, 1.0, 3.5, 2.0]
    assert pearson([1.0, 2.0, 3.0], [-2.0, -4.0, -6.0]) == pytest.approx(
        -1, abs=1e-15
    )  # one rounding
    assert spearman([1.0, 2.0, 3.0], [1.0, 100.0, 101.0]) == pytest.approx(1, abs=1e-15)
    assert pearson([1.0, 1.0], [1.0, 2.0]) is None


@pytest.mark.parametrize("levels", [4, 10_000])
def test_equal_to_the_reference_with_and_without_ties(levels: int) -> None:
    rng = np.random.default_rng(levels)
    x, y = rng.integers(0, levels, (2, 300)) / levels
    y = np.round((x + y) * levels / 2) / levels
    marks = rng.random(300) < 0.3
    # The same sums in another order: 1e-12 is thousands of roundings of float64.
    assert auroc(x[marks], x[~marks]) == pytest.approx(roc_auc_score(marks, x), abs=1e-12)
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(DataError, match="auroc needs at least one score in each group"):
        auroc([], [1.0])
    with pytest.raises(DataError, match="two lists of the same length, at least 2; got 2 and 3"):
        pearson([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(NotFiniteError, match="auroc: a number is NaN or infinite"):
        auroc([float("nan")], [1.0])
