"""A plugin of pytest that writes down which columns of the table the tests proved, by family.

Run as ``pytest -p tests.proofs --proofs FILE``. A test names its column by the marker `proves`, and its family
by the parameter `traced` or `model_type`.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import pytest

__all__ = ["pytest_addoption", "pytest_configure"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--proofs`."""
    parser.addoption("--proofs", type=Path, required=True, help="write the proofs here, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Register the recorder."""
    config.pluginmanager.register(_Recorder(config.getoption("--proofs")))


class _Recorder:
    """Family to column to whether all tests of it passed; a test that was skipped proves nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._passed: dict[str, dict[str, bool]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        self._note(item, report)
        return report

    def _note(self, item: pytest.Item, report: pytest.TestReport) -> None:
        found = getattr(getattr(item, "callspec", None), "params", {})
        family = found.get("traced") or found.get("model_type")
        # A test that fails or is skipped in its set-up has no report of the call.
        if family is None or (report.when != "call" and report.passed):
            return
        columns = self._passed.setdefault(family, {})
        for marker in item.iter_markers("proves"):
            for column in marker.args:
                columns[column] = columns.get(column, True) and report.passed

    def pytest_sessionfinish(self) -> None:
        self._path.write_text(json.dumps(self._passed, indent=1, sort_keys=True) + "\n")
