"""Tries on validation rows and readings of the test rows: recorded, read again, and refused where they would mislead."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.study import __main__ as command
from benchmarks.study.arms import DECIDING, MAIN, WINNER
from benchmarks.study.page import MARKER
from benchmarks.study.readings import note_reading, plan_of, read_readings
from benchmarks.study.settings import StudySettings
from benchmarks.study.tries import Try, changed, note_tries, read_tries
from moir_edge.errors import DataError

SETTINGS = StudySettings()
DOCS = Path(__file__).parents[4] / "docs"


def _try(**changes: object) -> Try:
    values = {
        "backbone": "digits", "arm": "gate", "changes": ("steps=9",), "seed": 0, "steps": 9, "parameters": 5,
        "clean": 80.0, "degraded": 60.0, "clean_gain": 0.0, "degraded_gain": 1.0, "note": "first",
    }  # fmt: skip
    return Try(**{**values, **changes})  # type: ignore[arg-type]


def test_a_try_that_is_made_again_takes_the_place_of_its_line(tmp_path: Path) -> None:
    file = tmp_path / "tries.jsonl"
    note_tries(file, [_try(), _try(seed=1)])
    note_tries(file, [_try(note="again"), _try(changes=("steps=9", "balance=mwam-loss"))])
    assert [(one.note, one.seed) for one in read_tries(file)] == [
        ("again", 0), ("first", 1), ("first", 0),
    ]  # fmt: skip
    assert read_tries(tmp_path / "none.jsonl") == []


def test_changes_reach_router_arm_and_budget_and_are_in_the_name() -> None:
    arm, settings = changed(WINNER, SETTINGS, ["router.rank=8", "keep_clean=2", "steps=50"])
    assert arm.router is not None
    assert (arm.router.rank, arm.router.top_k, arm.keep_clean) == (8, 8, 2)
    assert (settings.steps, settings.batch_size) == (50, SETTINGS.batch_size)
    assert arm.name == f"{WINNER.name}+router.rank=8+keep_clean=2+steps=50"
    assert changed(WINNER, SETTINGS, []) == (WINNER, SETTINGS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("rank", "'rank': expected KEY=VALUE, such as router.rank=8"),
        ("test_rows=9", "'test_rows' cannot be changed: "),
        ("keep_claen=1", "'keep_claen' cannot be changed: did you mean 'keep_clean'?"),
        ("steps=many", "steps: Input should be a valid integer"),
        ("router.rnak=8", "rnak: Extra inputs are not permitted"),
    ],
)
def test_a_change_that_does_not_fit_is_one_sentence(change: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        changed(WINNER, SETTINGS, [change])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_test_rows_are_read_with_one_plan_unless_somebody_says_again(tmp_path: Path) -> None:
    file = tmp_path / "readings.jsonl"
    note_reading(file, "digits", "one", again=False)
    note_reading(file, "digits", "one", again=False)  # goes on with the same runs
    note_reading(file, "icons", "two", again=False)
    with pytest.raises(DataError) as caught:
        note_reading(file, "digits", "two", again=False)
    assert str(caught.value).startswith("the test rows of digits were read on 20")
    assert "with other arms or settings; choose settings with --validate" in str(caught.value)
    note_reading(file, "digits", "two", again=True)
    assert [(one.backbone, one.plan) for one in read_readings(file)] == [
        ("digits", "one"), ("icons", "two"), ("digits", "two"),
    ]  # fmt: skip


def test_a_plan_is_every_arm_and_setting() -> None:
    plan = plan_of(SETTINGS, MAIN)
    assert plan == plan_of(StudySettings(), MAIN)
    others = [
        plan_of(StudySettings(steps=401), MAIN),
        plan_of(SETTINGS, MAIN[:-1]),
        plan_of(SETTINGS, [changed(arm, SETTINGS, ["balance=mwam-loss"])[0] for arm in MAIN]),
        plan_of(SETTINGS, [changed(WINNER, SETTINGS, ["router.rank=8"])[0], *MAIN]),
    ]
    assert len({plan, *others}) == 5


@pytest.mark.parametrize("read", [read_tries, read_readings])
@pytest.mark.parametrize("line", ["{", "[]", '{"backbone": 1}'])
def test_a_damaged_line_is_named(tmp_path: Path, read: object, line: str) -> None:
    file = tmp_path / "record.jsonl"
    file.write_text(f"{line}\n")
    with pytest.raises(DataError, match=r"record\.jsonl:1: not a .* restore the file"):
        read(file)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "steps=9"], "--set changes what is tried on validation rows; add --validate"),
        (["--note", "x"], "--note changes what is tried on validation rows; add --validate"),
        (["--validate", "--docs", "d"], "the page shows figures of test rows; leave --docs or"),
        (["--arm", "tokn"], "unknown arm 'tokn': "),
        (["--backbone", "icon"], "unknown backbone 'icon': did you mean 'icons'?"),
    ],
)
def test_options_that_do_not_go_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert command.main(["-o", str(tmp_path), *words]) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [[], ["--validate"], ["--smoke", "--docs", "d"]])
def test_runs_need_a_folder(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert command.main(words) == 2
    expected = "error: no folder to make runs in; give one with -o, or show kept runs with --docs\n"
    assert capsys.readouterr().err == expected


def test_a_folder_with_other_settings_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "settings.json").write_text("{}")
    words = ["-o", str(tmp_path), "--backbone", "digits", "--readings", str(tmp_path / "r.jsonl")]
    assert command.main(words) == 2
    assert "holds a study with other settings; give another folder" in capsys.readouterr().err


def test_the_cost_is_stated_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--cost", "--jobs", "2", "--backbone", "icons", "--arm", DECIDING[0], "--seed", "1"]
    places = ["-o", str(tmp_path), "--records", str(tmp_path / "records")]
    assert command.main([*places, *words]) == 0
    out = capsys.readouterr().out
    assert out.startswith("2 runs are to be made: about 0.1 hours, 2 at a time (200 s each, by the")
    assert f"icons: base-0\n  icons: {DECIDING[0]}-1" in out
    assert list(tmp_path.iterdir()) == []


def test_a_small_study_is_made_whole_and_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, docs = tmp_path / "study", tmp_path / "docs"
    docs.mkdir()
    words = ["-q", "-o", str(folder), "--smoke", "--backbone", "digits", "--jobs", "1"]
    assert command.main([*words, "--validate", "--arm", DECIDING[0], "--note", "first"]) == 0
    (tried,) = read_tries(folder / "tries.jsonl")
    assert (tried.arm, tried.steps, tried.note) == (DECIDING[0], 2, "first")
    kept = folder / "digits" / "tuned" / f"{DECIDING[0]}-0" / "study.json"
    made = kept.stat().st_mtime_ns
    assert command.main([*words, "--docs", str(docs)]) == 0
    assert kept.stat().st_mtime_ns == made  # the test takes over what the validation trained
    runs = sorted(path.stem for path in (folder / "records").glob("digits-*/*.json"))
    assert runs == ["base-0", *sorted(f"{name}-0" for name in DECIDING)]
    page = (docs / "study.md").read_text()
    assert f"`{DECIDING[0]}` beats `{DECIDING[1]}` on degraded rows" in page
    assert "| SmolVLM, digits |" in page
    capsys.readouterr()
    assert command.main([*words, "--docs", str(docs)]) == 0
    assert "every run is made" in capsys.readouterr().out
    assert len(read_readings(folder / "readings.jsonl")) == 1


def test_the_page_is_written_again_from_the_records_that_the_repository_keeps(
    tmp_path: Path,
) -> None:
    assert command.main(["-q", "--docs", str(tmp_path)]) == 0
    shown, kept = ((folder / "study.md").read_text() for folder in (tmp_path, DOCS))
    assert shown.partition(MARKER)[0] == kept.partition(MARKER)[0]
