from __future__ import annotations

from pathlib import Path

import pytest

from moir_edge.benchmarks.data import Row
from moir_edge.benchmarks.gates import GateBounds
from moir_edge.benchmarks.schema import ComparisonReport

from .fakes import make_report, make_rows


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    return make_rows(tmp_path)


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> ComparisonReport:
    bounds = GateBounds(min_recovery=95, max_ttft_ratio=2)
    return make_report(tmp_path_factory.mktemp("report"), bounds)
