from __future__ import annotations

import io
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from moir_edge.data.degradations import parse_degradation
from moir_edge.data.rows import Row
from moir_edge.data.variants import ImageStore, Variant, degraded_rows, permuted_rows
from moir_edge.errors import EnvironmentProblem


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image, dtype=np.float64)


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """Four rows of one image each, 32 × 48 px; the last two share theirs."""
    rng = np.random.default_rng(0)
    paths = []
    for name in ("a", "b", "c"):
        smooth = gaussian_filter(rng.uniform(0, 255, (32, 48, 3)), (3, 3, 0))
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray(np.clip(4 * (smooth - 127) + 127, 0, 255).astype(np.uint8)).save(paths[-1])
    images = [paths[0], paths[1], paths[2], paths[2]]
    return [
        Row(
            id=str(at),
            task="vqa",
            images=(path,),
            prompt=f"What colour is the digit number {at} ?",
            context=None if at == 0 else f"There are {at} digits and one big red dot .",
            answers=("red",),
        )
        for at, path in enumerate(images)
    ]


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    (tmp_path / "store").mkdir()
    return ImageStore(tmp_path / "store")


def degrade(rows: list[Row], text: str, store: ImageStore, seed: int = 0) -> Variant:
    return degraded_rows(rows, parse_degradation(text), store, seed=seed)


@pytest.mark.parametrize(
    "text", ["blur@3", "blur=3.4px", "noise", "jpeg", "mask-region", "image-blank"]
)
def test_an_image_degradation_leaves_everything_else(
    rows: list[Row], store: ImageStore, text: str
) -> None:
    variant = degrade(rows, text, store)
    for before, after in zip(rows, variant.rows, strict=True):
        assert (after.id, after.task, after.text) == (before.id, before.task, before.text)
        assert after.answers == before.answers
        assert pixels(after.images[0]).shape == pixels(before.images[0]).shape
        assert not np.array_equal(pixels(after.images[0]), pixels(before.images[0]))
    assert variant.rows[2].images == variant.rows[3].images


def test_a_masked_region_has_the_asked_share_and_its_own_mean_colour(
    rows: list[Row], store: ImageStore
) -> None:
    """32 × 48 px: a quarter of the area is 16 × 24 px, and what lies around it stays as it was."""
    for before, after in zip(rows, degrade(rows, "mask-region=0.25", store).rows, strict=True):
        old, new = pixels(before.images[0]), pixels(after.images[0])
        tall, wide = (np.flatnonzero((old != new).any(axis=(axis, 2))) for axis in (1, 0))
        region = np.s_[tall[0] : tall[-1] + 1, wide[0] : wide[-1] + 1]
        assert old[region].shape == (16, 24, 3)
        mean = old[region].reshape(-1, 3).mean(axis=0)
        assert np.abs(new[region] - mean).max() <= 0.5  # rounded to 8 bits
        outside = np.ones(old.shape, bool)
        outside[region] = False
        assert np.array_equal(old[outside], new[outside])


def test_a_larger_masked_region_contains_the_smaller_one(
    rows: list[Row], store: ImageStore
) -> None:
    old = pixels(rows[0].images[0])
    changed = [
        (pixels(degrade(rows, f"mask-region={share}", store).rows[0].images[0]) != old).any(axis=2)
        for share in (0, 0.1, 0.3, 0.6, 1)
    ]
    assert not changed[0].any()
    for small, large in itertools.pairwise(changed):
        # A pixel may have the mean colour already: compare bounding boxes, not single pixels.
        tall, wide = (np.flatnonzero(small.any(axis=axis)) for axis in (1, 0))
        around = (np.flatnonzero(large.any(axis=axis)) for axis in (1, 0))
        for inner, outer in zip((tall, wide), around, strict=True):
            assert not len(inner) or (outer[0] <= inner[0] and inner[-1] <= outer[-1])
    assert changed[-1].any(axis=1).all()
    assert changed[-1].any(axis=0).all()


@pytest.mark.parametrize("text", ["word-dropout", "text-blank"])
def test_a_text_degradation_leaves_everything_else(
    rows: list[Row], store: ImageStore, text: str
) -> None:
    for before, after in zip(rows, degrade(rows, text, store).rows, strict=True):
        assert (after.id, after.images, after.answers) == (before.id, before.images, before.answers)


def test_blur_is_a_gaussian_of_the_sigma_that_is_reported(
    rows: list[Row], store: ImageStore
) -> None:
    variant = degrade(rows, "blur@5", store)
    sigma = 6 * 32 / 224  # the shorter side
    assert variant.strengths == pytest.approx((sigma, sigma))
    expected = gaussian_filter(pixels(rows[0].images[0]), (sigma, sigma, 0), mode="nearest")
    # half a value from rounding, and a little for where scipy cuts its kernel off
    np.testing.assert_allclose(pixels(variant.rows[0].images[0]), expected, atol=0.51)
    assert degrade(rows, "blur=0", store).strengths == (0.0, 0.0)


@pytest.mark.parametrize("size", [(1100, 40), (40, 1100), (700, 600)])
def test_a_large_image_is_blurred_part_by_part(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    image = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    effect = parse_degradation("blur=9px").kind.image_effect
    assert effect is not None
    expected = gaussian_filter(np.asarray(image, np.float64), (9, 9, 0), mode="nearest")
    # half a value from rounding, and a little for where scipy cuts its kernel off
    np.testing.assert_allclose(np.asarray(effect(image, 9.0, rng)), expected, atol=0.51)


def test_noise_in_parts_is_the_noise_drawn_at_once() -> None:
    image = Image.new("RGB", (300, 1500), (128, 128, 128))
    effect = parse_degradation("noise=0.1").kind.image_effect
    assert effect is not None
    noise = np.random.default_rng(5).normal(scale=0.1, size=(1500, 300, 3))
    expected = np.clip(np.rint(128 + 255 * noise), 0, 255)
    # A value that falls between two levels may be rounded the other way.
    noisy = np.asarray(effect(image, 0.1, np.random.default_rng(5)))
    np.testing.assert_allclose(noisy, expected, atol=1)
    assert np.mean(noisy != expected) < 1e-3


_EFFECTS = """
import sys
import numpy as np
from PIL import Image
from moir_edge.data.degradations import parse_degradation
from moir_edge.runtime.timing import peak_memory_bytes
effect = parse_degradation(sys.argv[1]).kind.image_effect
effect(Image.new("RGB", (8, 8)), float(sys.argv[2]), np.random.default_rng(0))
before = peak_memory_bytes()
effect(Image.new("RGB", (4096, 3072)), float(sys.argv[2]), np.random.default_rng(0))
print(peak_memory_bytes() - before)
"""


@pytest.mark.parametrize(("name", "strength"), [("blur", 3), ("noise", 0.1), ("jpeg", 25)])
def test_an_effect_on_the_largest_image_takes_less_than_300_megabytes(
    name: str, strength: float
) -> None:
    words = [sys.executable, "-c", _EFFECTS, name, str(strength)]
    child = subprocess.run(words, capture_output=True, text=True, check=True)
    assert int(child.stdout) < 300e6


def test_noise_has_the_deviation_asked_for_and_is_seeded(
    rows: list[Row], store: ImageStore, tmp_path: Path
) -> None:
    grey = tmp_path / "grey.png"
    Image.new("RGB", (64, 64), (128, 128, 128)).save(grey)
    row = Row(id="x", task="vqa", images=(grey,), prompt="?", answers=("a",))
    noisy = degrade([row], "noise=0.1", store).rows[0].images[0]
    # 12 288 values: the sample's deviation is within 2 % of 25.5
    assert np.std(pixels(noisy) - 128) == pytest.approx(25.5, rel=0.02)
    assert degrade([row], "noise=0.1", store).rows[0].images[0] == noisy
    assert degrade([row], "noise=0.1", store, seed=1).rows[0].images[0] != noisy


def test_jpeg_is_what_pillow_writes(rows: list[Row], store: ImageStore) -> None:
    variant = degrade(rows, "jpeg=15", store)
    buffer = io.BytesIO()
    with Image.open(rows[0].images[0]) as image:
        image.save(buffer, "JPEG", quality=15)
    expected = np.asarray(Image.open(buffer).convert("RGB"))
    np.testing.assert_array_equal(pixels(variant.rows[0].images[0]), expected)


def test_blank_images_of_one_size_are_one_grey_file(rows: list[Row], store: ImageStore) -> None:
    variant = degrade(rows, "image-blank", store)
    assert len({row.images for row in variant.rows}) == 1
    assert np.unique(pixels(variant.rows[0].images[0])).tolist() == [128]
    assert variant.strengths is None


def test_an_image_that_a_killed_process_left_incomplete_is_written_anew(
    rows: list[Row], store: ImageStore, tmp_path: Path
) -> None:
    """A resumed run finds the folder of the run before it."""
    (path,) = degrade(rows, "image-blank", store).rows[0].images
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    again = ImageStore(tmp_path / "store")
    assert degrade(rows, "image-blank", again).rows[0].images == (path,)
    assert path.read_bytes() == whole


def test_a_disk_that_does_not_take_images_is_one_sentence(rows: list[Row], tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "gone")
    with pytest.raises(
        EnvironmentProblem, match=r"cannot write a degraded image to .*gone: .*TMPDIR"
    ):
        degrade(rows, "image-blank", store)


def test_words_drop_from_context_and_prompt_and_one_stays(
    rows: list[Row], store: ImageStore
) -> None:
    for row in degrade(rows, "word-dropout=1", store).rows:
        assert len(row.prompt.split()) == 1
        assert row.context is None or len(row.context.split()) == 1
    same = degrade(rows, "word-dropout=0", store)
    assert [row.text for row in same.rows] == [row.text for row in rows]
    assert same.strengths == (0.0, 0.0)


def test_dropout_is_seeded_per_row_and_grows_with_p(rows: list[Row], store: ImageStore) -> None:
    few, many = (degrade(rows, f"word-dropout={p}", store).rows for p in (0.2, 0.6))
    assert few == degrade(rows, "word-dropout=0.2", store).rows
    # a row does not depend on its neighbours
    assert degrade(rows[1:2], "word-dropout=0.2", store).rows[0] == few[1]
    assert few != degrade(rows, "word-dropout=0.2", store, seed=1).rows
    for less, more in zip(few, many, strict=True):
        assert set(more.prompt.split()) <= set(less.prompt.split())


def test_blank_text_is_no_text(rows: list[Row], store: ImageStore) -> None:
    assert {row.text for row in degrade(rows, "text-blank", store).rows} == {""}


def test_dropout_rate(store: ImageStore, rows: list[Row]) -> None:
    words = " ".join("w" for _ in range(4000))
    row = Row(id="long", task="vqa", images=rows[0].images, prompt=words, answers=("a",))
    kept = len(degrade([row], "word-dropout=0.3", store).rows[0].prompt.split())
    # binomial, 4000 draws: 4 standard deviations are 116
    assert abs(kept - 2800) < 116


def test_permuted_rows_take_from_another_row_of_their_kind(tmp_path: Path) -> None:
    rows = [
        Row(
            id=str(at),
            task=task,
            images=tuple(tmp_path / f"{at}-{image}" for image in range(images)),
            prompt=f"p{at}",
            context=f"c{at}",
            answers=(f"a{at}",),
        )
        for at, (task, images) in enumerate(
            [("vqa", 1)] * 5 + [("vqa", 2)] * 2 + [("caption", 1)] * 3 + [("statement", 2)]
        )
    ]
    permuted = permuted_rows(rows, seed=0)
    assert sorted(permuted) == list(range(10))  # the statement is alone
    for side in (0, 1):
        donors = []
        for at, pair in permuted.items():
            changed, row = pair[side], rows[at]
            assert (changed.id, changed.task, changed.answers) == (row.id, row.task, row.answers)
            taken = changed.images if side == 0 else (changed.prompt, changed.context)
            donor = next(
                i
                for i, other in enumerate(rows)
                if taken in (other.images, (other.prompt, other.context))
            )
            assert donor != at
            assert (rows[donor].task, len(rows[donor].images)) == (row.task, len(row.images))
            if side == 0:
                assert changed.text == row.text
            else:
                assert changed.images == row.images
            donors.append(donor)
        assert sorted(donors) == list(range(10))
    assert permuted == permuted_rows(rows, seed=0)
    assert permuted != permuted_rows(rows, seed=1)


def test_a_modality_that_is_absent_leaves_nothing_behind(
    rows: list[Row], store: ImageStore
) -> None:
    blind = degrade(rows, "image-absent", store)
    assert [row.images for row in blind.rows] == [()] * 4
    assert [row.text for row in blind.rows] == [row.text for row in rows]
    terse = degrade(rows, "context-absent", store)
    assert [row.text for row in terse.rows] == [row.prompt for row in rows]
    assert [row.images for row in terse.rows] == [row.images for row in rows]
    assert blind.strengths is terse.strengths is None
