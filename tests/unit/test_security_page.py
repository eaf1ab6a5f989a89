"""docs/security.md lists every limit with the value that the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from moir_edge import limits

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", limits.__all__)
def test_every_limit_stands_on_the_page(name: str) -> None:
    rows = [line.split("|") for line in PAGE.splitlines() if re.search(rf"`{name}`", line)]
    assert len(rows) == 1
    assert rows[0][2].strip() == f"{getattr(limits, name):,}"
