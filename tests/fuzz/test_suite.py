"""The fuzz suite notices what it is for, and a case is the same each time."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.areas.suite import Suite
from tests.fuzz.mutate.json_text import alter_json
from tests.fuzz.mutate.raw import alter_bytes
from tests.fuzz.running import run_jobs
from tests.fuzz.table import faults_text, summary, table_text
from tests.fuzz.verdict import FAULTS, Verdict

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    """One verdict per case of the suite's own area."""
    found = run_jobs(
        {"suite": range(len(Suite.kinds))},
        seed=0,
        seeds=tmp_path_factory.mktemp("seeds"),
        jobs=2,
        hang_seconds=2.0,
    )["suite"]
    assert [verdict.index for verdict in found] == list(range(len(Suite.kinds)))
    return dict(zip(Suite.kinds, found, strict=True))


@pytest.mark.parametrize("kind", Suite.kinds)
def test_each_verdict_is_found(verdicts: dict[str, Verdict], kind: str) -> None:
    assert verdicts[kind].kind == ("memory" if kind == "bomb" else kind)


def test_a_fault_says_what_happened_and_to_which_case(verdicts: dict[str, Verdict]) -> None:
    assert verdicts["exception"].detail.startswith("KeyError at suite.py:")
    assert verdicts["signal"].detail.startswith('SIGSEGV in File "')
    assert "areas/suite.py" in verdicts["signal"].detail
    assert verdicts["signal"].recipe == "signal"
    assert verdicts["hang"].recipe == "hang"
    assert 2.0 <= verdicts["hang"].seconds < 60  # it would take 100
    # 400 MB were written; the interpreter itself moves it by little.
    assert 395 <= verdicts["memory"].megabytes < 450
    assert verdicts["accepted"].megabytes < 5
    assert "making the case failed" in verdicts["suite"].detail


def test_the_summary_counts_and_names_the_faults(verdicts: dict[str, Verdict]) -> None:
    figures = summary({"suite": list(verdicts.values())}, seed=7)
    area = figures["areas"]["suite"]
    assert (figures["cases"], area["refused"], area["accepted"]) == (10, 1, 1)
    assert area["faults"] == len(figures["faults"]) == 8
    assert {fault["kind"] for fault in figures["faults"]} == set(FAULTS)
    assert table_text(figures).splitlines()[1].split()[:5] == ["suite", "10", "1", "1", "8"]
    assert "python -m tests.fuzz --area suite --seed 7 --index 2" in faults_text(figures)


def test_a_process_that_dies_early_is_a_fault_of_each_of_its_cases(tmp_path: Path) -> None:
    found = run_jobs({"no such area": [3, 5]}, seed=0, seeds=tmp_path, jobs=2)["no such area"]
    assert [(verdict.kind, verdict.index) for verdict in found] == [("suite", 3), ("suite", 5)]
    assert "KeyError: 'no such area'" in found[0].detail


def test_the_same_seed_alters_alike() -> None:
    text = json.dumps({"a": [1, 2.5, "three"], "b": {"c": None}})
    for alter, whole in ((alter_json, text), (alter_bytes, text.encode())):
        once = [alter(random.Random(seed), whole) for seed in range(300)]
        assert once == [alter(random.Random(seed), whole) for seed in range(300)]
        assert len({altered for altered, _ in once}) > 150


def test_an_unknown_area_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--area", "bundle"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("no area bundle; known: altered-bundles, ")
