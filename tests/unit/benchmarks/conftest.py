"""A report without a model."""

from __future__ import annotations

import pytest

from moir_edge.evaluation.comparison.gates import GateBounds
from moir_edge.evaluation.comparison.schema import ComparisonReport

from ..evaluation.fakes import make_report


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> ComparisonReport:
    return make_report(tmp_path_factory.mktemp("report"), GateBounds())
