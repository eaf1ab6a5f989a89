"""A slice of the comparison with transformers: each setting once, on the layouts that differ most."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.generations import __main__ as command
from benchmarks.generations.__main__ import main, measure
from benchmarks.generations.cases import SETTINGS, Case
from benchmarks.generations.run import Outcome

pytestmark = [
    pytest.mark.slow,
    # The setting `min_length` asks for more than some prompts leave room for; transformers says so and goes on.
    pytest.mark.filterwarnings("ignore:Unfeasible length constraints"),
]


@pytest.mark.parametrize("name", ["smolvlm-split-router", "llava-clip-router"])
def test_a_bundle_answers_as_transformers_does(name: str, tmp_path: Path) -> None:
    outcomes = measure(name, tmp_path, per_setting=1)
    assert {one.case.setting for one in outcomes} == set(SETTINGS)
    assert [one for one in outcomes if not one.equal] == []
    # Settings that change nothing would prove nothing.
    assert sum(one.changed for one in outcomes) > len(SETTINGS) // 2


def test_a_difference_is_printed_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Case(setting="none", prompt="x", pictures=("rgb.png",), max_new_tokens=2)
    wrong = Outcome(case=case, expected=(4, 5), got=(4, 6), plain=(4, 5))
    monkeypatch.setattr(command, "measure", lambda *_, **__: [wrong])
    assert main(["--checkpoints", "smolvlm"]) == 1
    printed = capsys.readouterr().out
    assert (
        "DIFFERENT smolvlm: none, 'x', rgb.png: transformers [4, 5], bundle [4, 6]"
        in printed.splitlines()
    )
    assert printed.endswith("0 of 1 generations equal\n")
