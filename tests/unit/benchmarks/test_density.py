"""Density and sources against cells whose content is known."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from benchmarks.density import main
from benchmarks.density_figures import Pair, has_digit, measure, measure_ranks
from moir_edge.bundle import ImageGrid
from moir_edge.demo import checkpoint_path, demo_rows
from moir_edge.demo.scenes import CELL
from moir_edge.errors import DataError
from moir_edge.runtime import RoutingMap
from moir_edge.runtime.image_processor import View
from moir_edge.runtime.processor import EncodedPrompt


def picture() -> Image.Image:
    """Two by two cells: noise of a digit in the upper left one, a dark even colour in the others."""
    pixels = np.full((8, 8, 3), 30, np.uint8)
    pixels[1:3, 1:3] = 230
    return Image.fromarray(pixels)


def routing(scores: list[float], best: int) -> RoutingMap:
    """Four cells with these densities and one word that took from one of them."""
    prompt = EncodedPrompt(
        text="<i> cup",
        expanded="<i><i><i><i> cup",
        ids=(0,) * 5,
        offsets=((0, 3), (3, 6), (6, 9), (9, 12), (12, 16)),
        images=((View(kind="whole"),),),
    )
    return RoutingMap(
        prompt=prompt,
        grid=ImageGrid(side=2, cell=0.5),
        image_tokens=4,
        positions=np.arange(5),
        scores=np.array([*scores, 0.5], np.float32),
        indices=np.array([[-1]] * 4 + [[best]]),
        margin=np.zeros(5, np.float32),
        gate=np.array([0, 0, 0, 0, 1], np.float32),
    )


def test_figures_of_a_map_whose_answer_is_known() -> None:
    pairs = [
        (routing([1.0, 0.2, 0.2, 0.2], 0), [picture()]),
        (routing([0.8, 0.4, 0.4, 0.4], 3), [picture()]),
    ]
    found = measure(pairs)
    assert (found.cells, found.lookups) == (8, 2)
    assert found.digit_share == 0.25
    assert found.on_digits == pytest.approx(0.9)
    assert found.on_empty == pytest.approx(0.3)
    assert found.best_on_digit == 0.5
    # Contrast is the same in all cells with a digit and nil elsewhere, so the correlation is that with a 0/1 mark.
    marks = [1, 0, 0, 0] * 2
    densities = [1.0, 0.2, 0.2, 0.2, 0.8, 0.4, 0.4, 0.4]
    assert found.contrast_correlation == pytest.approx(np.corrcoef(marks, densities)[0, 1])
    assert found.contrast_rank_correlation == pytest.approx(
        stats.spearmanr(marks, densities).statistic
    )
    assert measure(
        [(routing([0.0, 1.0, 1.0, 1.0], 1), [picture()])]
    ).contrast_correlation == pytest.approx(-1)


def test_a_router_that_says_nothing_has_no_figures() -> None:
    """One density for all cells, and no word that looked anything up."""
    silent = dataclasses.replace(routing([0.3] * 4, -1), gate=np.zeros(5, np.float32))
    found = measure([(silent, [picture()])])
    assert (found.contrast_correlation, found.contrast_rank_correlation) == (None, None)
    assert (found.lookups, found.best_on_digit) == (0, None)


def test_rows_without_an_empty_cell_are_refused() -> None:
    bright = Image.new("RGB", (8, 8), (230, 230, 230))
    with pytest.raises(DataError, match="no cells with a digit or none without"):
        measure([(routing([0.1, 0.2, 0.3, 0.4], 0), [bright])])


def masked() -> Image.Image:
    """The picture with its left half in one colour, other than any in it."""
    pixels = np.asarray(picture()).copy()
    pixels[:, :4] = 50
    return Image.fromarray(pixels)


def test_clean_cells_are_ranked_against_themselves_masked() -> None:
    clean, other = routing([0.9, 0.5, 0.3, 0.5], 0), routing([0.4, 0.5, 0.35, 0.5], 0)
    low, lower = routing([0.6, 0.1, 0.3, 0.1], 0), routing([0.5, 0.1, 0.3, 0.1], 0)
    found = measure_ranks(
        [
            Pair(clean=one, degraded=two, images=[picture()], degraded_images=[masked()])
            for one, two in ((clean, low), (other, lower))
        ]
    )
    # Digits: 0.9 and 0.4 against 0.6 and 0.5, two of four right. The left column's empty cells count in `auroc_all`.
    assert (found.cells, found.auroc, found.ranked) == (2, 0.5, 0.5)
    high, less = [0.9, 0.3, 0.4, 0.35], [0.6, 0.3, 0.5, 0.3]
    assert found.auroc_all == pytest.approx(
        stats.mannwhitneyu(np.float32(high), np.float32(less)).statistic / 16
    )


def test_a_degradation_that_changes_nothing_is_refused() -> None:
    same = routing([0.1, 0.2, 0.3, 0.4], 0)
    with pytest.raises(DataError, match="the degradation changed no cell with a digit"):
        measure_ranks(
            [Pair(clean=same, degraded=same, images=[picture()], degraded_images=[picture()])]
        )


def test_a_digit_is_told_from_every_background() -> None:
    """Every place of the demo's layout that holds an item has a marked cell, and no other place has one."""
    for row in demo_rows("test", count=30, seed=1):
        for image, scene in zip(row.images, row.scenes, strict=True):
            taken = {item.place for item in scene.items}
            for place in range(9):
                left, top = place % 3 * CELL / image.width, place // 3 * CELL / image.height
                box = (left, top, left + CELL / image.width, top + CELL / image.height)
                assert has_digit(image, box) == (place in taken)


def test_the_command_writes_what_it_measured_into_the_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("training_log.json", "README.md"):
        shutil.copy(checkpoint_path() / name, tmp_path)
    assert main(["--rows", "6", "--fresh", "1", "--json", "--card", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"trained", "fresh, seed 0"}
    for figures in found.values():
        assert 0 < figures["masked_auroc"] < 1
        assert 0 < figures["blurred_auroc"] < 1
        assert figures["named_lookups"] >= 6
        assert figures["named_chance"] == pytest.approx(4 / 36)
    record = json.loads((tmp_path / "training_log.json").read_text())["density"]
    assert record == {"rows": 6, "routers": found}
    card = (tmp_path / "README.md").read_text()
    assert f"It is {found['trained']['on_digits']:.2f} on cells with a digit" in card


def test_the_shipped_card_says_what_the_density_is() -> None:
    record = json.loads((checkpoint_path() / "training_log.json").read_text())["density"]
    trained = record["routers"]["trained"]
    card = (checkpoint_path() / "README.md").read_text(encoding="utf-8")
    assert f"{trained['on_digits']:.2f} on cells with a digit" in card
    assert f"{trained['on_empty']:.2f} on empty ones" in card
    assert record["rows"] == 200
