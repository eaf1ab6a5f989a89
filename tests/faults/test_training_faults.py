"""The folder of a run, ended at every step and cut off from power: the next command finds a whole checkpoint and leaves nothing."""

from __future__ import annotations

from collections import Counter

from tests.faults.test_faults import _run


def test_a_run_that_ends_at_any_step_goes_on() -> None:
    trials = _run("tests.faults.training", "--cases", "40", "--all")
    assert [trial for trial in trials if trial["fault"]] == []
    ways = Counter((trial["action"], trial["way"].partition(",")[0]) for trial in trials)
    assert {action for action, _ in ways} == {"start", "save", "discard"}
    assert all(count >= 10 for count in ways.values())
