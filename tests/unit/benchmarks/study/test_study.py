"""The study's arithmetic, page and data, on runs made up here; what the runs themselves do is tested at their parts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.study.arms import BASE, CONTROLS, DECIDING, EQUAL, MAIN, SHUFFLED, WINNER, Arm
from benchmarks.study.backbones import BACKBONES, Backbone
from benchmarks.study.comparisons import claims
from benchmarks.study.data import shuffled_answers, variance_left
from benchmarks.study.page import MARKER, BackboneFigures, Study, write_page
from benchmarks.study.readings import Reading
from benchmarks.study.runs import Job, Run, read_run, run_jobs
from benchmarks.study.settings import StudySettings
from benchmarks.study.summary import Spread, arm_figures, targets
from benchmarks.study.tries import Try
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
            "image-absent": scores(15.0),
            "context-absent": scores(70.0),
            "text-blank": scores(10.0),
        },
        share_image=image,
        share_text=1 - image,
        mdi={str(layer): 1.0 + layer for layer in range(4)},
        tasks=("vqa", "statement", "caption"),
        rows={
            label: (value / 100,) * 3
            for label, value in (("clean", 90.0), (SETTINGS.blur, blur), (SETTINGS.dropout, 50.0))
        },
        seconds=90.0,
    )


def _figures(arm: Arm, runs: list[Run]) -> Any:
    return arm_figures(arm, runs, [_run(BASE)], SETTINGS)


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


def _part(index: int) -> BackboneFigures:
    backbone = BACKBONES[index]
    settings = dataclasses.replace(SETTINGS, blur_sigma_px=SETTINGS.blur_sigma_px)
    main = [_figures(arm, [_run(arm.name, seed) for seed in (0, 1, 2)]) for arm in MAIN]
    router = [_run(DECIDING[0], seed, blur=63.0) for seed in (0, 1, 2)]
    return BackboneFigures(
        backbone=backbone,
        settings=settings,
        arms=[*main, *(_figures(arm, [_run(arm.name)]) for arm in CONTROLS)],
        claims=claims(router, [_run(BASE)], [[_run(arm.name)] for arm in EQUAL], settings),
        winner=next(one for one in main if one.arm == WINNER),
        shuffled=_figures(SHUFFLED, [_run(SHUFFLED.name)]),
        variance_left=0.5,
        missing=("lora-0",) if index else (),
    )


def _study() -> Study:
    tried = Try(
        backbone="icons", arm=DECIDING[0], changes=("router.rank=8",), seed=0, steps=400, parameters=99,
        clean=90.0, degraded=60.0, clean_gain=-0.1, degraded_gain=1.5, note="smaller",
    )  # fmt: skip
    return Study(
        parts=[_part(0), _part(1)],
        tries=[tried],
        readings=[
            Reading(backbone="digits", plan="a", day="2026-11-28"),
            Reading(backbone="icons", plan="a", day="2026-11-28"),
            Reading(backbone="icons", plan="b", day="2026-11-29"),
        ],
        hours=2.5,
    )


def test_the_page_holds_every_arm_and_keeps_what_people_wrote(tmp_path: Path) -> None:
    write_page(_study(), tmp_path)
    page = tmp_path / "study.md"
    first = page.read_text()
    for number, arm in enumerate((*MAIN, *CONTROLS), start=1):
        assert f"| D{number} | SmolVLM, digits | {arm.title} |" in first
        assert f"| I{number} | LLaVA, icons | {arm.title} |" in first
    assert "| clean, against base | ≥ 0 points | +0.0 points | reached |" in first
    assert "| fall of dominance | ≥ 30 % | +0.0 % | **missed** |" in first
    page.write_text(first + "\n## Notes\n\nkept\n")
    write_page(_study(), tmp_path)
    head, _, notes = page.read_text().partition(MARKER)
    assert head == first.partition(MARKER)[0]
    assert notes.strip() == "## Notes\n\nkept"
    for name in ("study-scores-digits.svg", "study-dominance-icons.svg"):
        drawing = (tmp_path / name).read_text()
        assert drawing.startswith("<svg ")
        assert 'xmlns="http://www.w3.org/2000/svg"' in drawing


def test_the_page_says_what_rests_on_which_rows_and_how_it_was_found(tmp_path: Path) -> None:
    write_page(_study(), tmp_path)
    page = (tmp_path / "study.md").read_text()
    router, control = (
        1 + [arm.name for arm in MAIN].index(name) for name in (DECIDING[0], EQUAL[0].name)
    )
    assert (
        f"| LLaVA, icons | `{DECIDING[0]}` beats `{EQUAL[0].name}` on degraded rows | I{router} − I{control} "
        "| +1.5 (+1.5 to +1.5) | ≥ 1 | holds |"
    ) in page
    text = " ".join(page.split())
    assert "The test rows of digits were read once, on 2026-11-28." in text
    assert (
        "The test rows of icons were read 2 times with different arms or settings, on 2026-11-28, 2026-11-29."
    ) in text
    assert "| LLaVA, icons | lora-0 |" in page
    assert "The runs took 2.5 hours in all" in text
    assert (
        f"| LLaVA, icons | {DECIDING[0]} | router.rank=8 | 0 | 400 | 99 | +1.5 | -0.1 | smaller |"
        in page
    )


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


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda one: one.name)
def test_the_blur_leaves_half_of_the_variance(backbone: Backbone) -> None:
    # the definition of the "50 % blur"; a step of 0.1 px moves it by a point
    settings = backbone.settings(StudySettings())
    assert variance_left(settings, backbone.theme) == pytest.approx(0.5, abs=0.01)


def test_finished_runs_are_not_made_again(tmp_path: Path) -> None:
    job = Job(arm=MAIN[0], seed=0, settings=SETTINGS, folder=tmp_path, records=tmp_path)
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
