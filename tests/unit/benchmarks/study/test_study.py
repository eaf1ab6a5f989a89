"""The study's arithmetic, page and data, on runs made up here; what the runs themselves do is tested at their parts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.study import __main__ as command
from benchmarks.study.arms import BASE, CONTROLS, MAIN, SHUFFLED, WINNER, Arm
from benchmarks.study.data import prepare_data, shuffled_answers, variance_left
from benchmarks.study.page import MARKER, Study, write_page
from benchmarks.study.runs import Job, Run, read_run, run_jobs
from benchmarks.study.settings import StudySettings
from benchmarks.study.summary import Spread, arm_figures, targets
from moir_edge.demo import demo_rows
from moir_edge.errors import DataError

SETTINGS = StudySettings(train_rows=12, test_rows=6)


def _run(arm: str, seed: int = 0, *, blur: float = 60.0, image: float = 0.4) -> Run:
    def scores(overall: float) -> dict[str, float]:
        return {"overall": overall, "vqa": overall, "statement": 50.0, "caption": 4.0}

    return Run(
        arm=arm,
        seed=seed,
        parameters=0 if arm == BASE else 1234,
        losses=None,
        scores={
            "clean": scores(90.0),
            SETTINGS.blur: scores(blur),
            SETTINGS.dropout: scores(50.0),
            "image-blank": scores(20.0),
            "text-blank": scores(10.0),
        },
        share_image=image,
        share_text=1 - image,
        mdi={str(layer): 1.0 + layer for layer in range(4)},
    )


def _figures(arm: Arm, runs: list[Run]) -> Any:
    return arm_figures(arm, runs, SETTINGS)


def test_means_and_deviations_over_seeds_by_hand() -> None:
    runs = [_run(WINNER.name, seed, blur=blur) for seed, blur in enumerate((60.0, 62.0, 64.0))]
    figures = _figures(WINNER, runs)
    assert figures.scores[SETTINGS.blur]["overall"] == Spread(62.0, 2.0)
    assert figures.degraded == Spread(56.0, 1.0)
    assert figures.dominance.mean == pytest.approx(0.2)
    assert _figures(WINNER, runs[:1]).degraded == Spread(55.0, None)


def test_dominance_is_averaged_after_its_absolute_value() -> None:
    runs = [_run(WINNER.name, 0, image=0.4), _run(WINNER.name, 1, image=0.6)]
    assert _figures(WINNER, runs).dominance.mean == pytest.approx(0.2)


def test_targets_are_held_against_the_base() -> None:
    base = _figures(MAIN[0], [_run(BASE)])
    better = _figures(WINNER, [_run(WINNER.name, blur=64.0, image=0.435)])
    degraded, clean, dominance = targets(better, base)
    assert (degraded.value, degraded.reached) == (pytest.approx(2.0), True)
    assert (clean.value, clean.reached) == (0.0, True)
    assert (dominance.value, dominance.reached) == (pytest.approx(35.0), True)
    worse = _figures(WINNER, [_run(WINNER.name, blur=63.9, image=0.42)])
    assert [one.reached for one in targets(worse, base)] == [False, True, False]


def _study() -> Study:
    main = [_figures(arm, [_run(arm.name, seed) for seed in (0, 1, 2)]) for arm in MAIN]
    return Study(
        settings=SETTINGS,
        main=main,
        controls=[_figures(arm, [_run(arm.name)]) for arm in CONTROLS],
        winner=next(one for one in main if one.arm == WINNER),
        shuffled=_figures(SHUFFLED, [_run(SHUFFLED.name)]),
        variance_left=0.5,
    )


def test_the_page_holds_every_arm_and_keeps_what_people_wrote(tmp_path: Path) -> None:
    write_page(_study(), tmp_path)
    page = tmp_path / "study.md"
    first = page.read_text()
    for arm in (*MAIN, *CONTROLS):
        assert f"| {arm.title} |" in first
    assert "σ = 3.5 px" in first
    assert "| clean, against base | ≥ 0 points | +0.0 points | reached |" in first
    assert "| fall of dominance | ≥ 30 % | +0.0 % | **missed** |" in first
    page.write_text(first + "\n## Notes\n\nkept\n")
    write_page(_study(), tmp_path)
    head, _, notes = page.read_text().partition(MARKER)
    assert head == first.partition(MARKER)[0]
    assert notes.strip() == "## Notes\n\nkept"
    for name in ("study-scores.svg", "study-dominance.svg"):
        drawing = (tmp_path / name).read_text()
        assert drawing.startswith("<svg ")
        assert 'xmlns="http://www.w3.org/2000/svg"' in drawing


def test_every_table_row_has_as_many_cells_as_its_head(tmp_path: Path) -> None:
    write_page(_study(), tmp_path)
    width = 0
    for line in (tmp_path / "study.md").read_text().splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        width = width or line.count("|")
        assert line.count("|") == width, line


def test_shuffled_answers_are_the_same_answers_at_other_rows_of_the_task() -> None:
    rows = demo_rows("val", count=60)
    dealt = shuffled_answers(rows)
    for task in ("vqa", "statement", "caption"):
        before = [row.answers for row in rows if row.task == task]
        after = [row.answers for row in dealt if row.task == task]
        assert sorted(before) == sorted(after)
        assert before != after
    assert [row.prompt for row in rows] == [row.prompt for row in dealt]


def test_the_blur_leaves_half_of_the_variance() -> None:
    # the definition of the "50 % blur"; a step of 0.1 px moves it by a point
    assert variance_left(StudySettings()) == pytest.approx(0.5, abs=0.01)


def test_finished_runs_are_not_made_again(tmp_path: Path) -> None:
    job = Job(arm=MAIN[0], seed=0, settings=SETTINGS, folder=tmp_path)
    job.record.parent.mkdir()
    job.record.write_text(json.dumps(dataclasses.asdict(_run(BASE))))
    called = []
    run_jobs([job], processes=1, threads=1, progress=lambda *_: called.append(1))
    assert called == []
    assert read_run(job.record).scores["clean"]["overall"] == 90.0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "cannot be read as JSON"),
        ("[]", "holds a list, expected an object"),
        ('{"arm": "base"}', "seed: Field required"),
        ({"seed": "x"}, "seed: Input should be a valid integer"),
        ({"scores": {"clean": 1}}, "scores.clean: Input should be a valid dictionary"),
    ],
)
def test_a_damaged_record_is_one_line(tmp_path: Path, content: Any, reason: str) -> None:
    path = tmp_path / "base-0.json"
    if isinstance(content, dict):
        content = json.dumps({**dataclasses.asdict(_run(BASE)), **content})
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        read_run(path)
    assert str(caught.value).startswith(str(path))
    assert reason in str(caught.value)
    assert str(caught.value).endswith("; remove it, and the run is made again")


def test_a_folder_with_other_settings_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_data(SETTINGS, tmp_path)
    (tmp_path / "settings.json").write_text("{}")
    assert command.main(["-o", str(tmp_path)]) == 2
    assert "holds a study with other settings; give another folder" in capsys.readouterr().err
