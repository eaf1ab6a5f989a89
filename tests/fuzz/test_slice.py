"""The short run of the fuzz suite: some cases of every area but the slowest, none of them a fault."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.fuzz.area import area_names, find_area

ROOT = Path(__file__).parents[2]


def test_the_slice_finds_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--slice", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["faults"] == []
    assert done.returncode == 0
    sliced = {name: find_area(name).sliced for name in area_names() if find_area(name).sliced}
    assert {name: area["cases"] for name, area in found["areas"].items()} == sliced
    # Each area has inputs that are refused; a run in which nothing is read would have none.
    assert all(area["refused"] for area in found["areas"].values())
    assert found["cases"] >= 300
    assert sum(area["accepted"] for area in found["areas"].values()) >= 50
