"""LLaVA-NeXT's and LLaVA-OneVision's tokens on the host, at the sizes of the models in use."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moir_edge.bundle import ImageGrid, ModelFacts
from moir_edge.errors import BundleError, DataError
from moir_edge.runtime.families import ImageTokens, family_of
from moir_edge.runtime.families.anyres import AnyRes
from moir_edge.runtime.image_processor import ImageShape, View

NEXT = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
ONEVISION = [[height, width] for height in range(384, 2305, 384) for width in range(384, 2305, 384)]


def family(model_type: str, tile: int, side: int, canvases: Any, **options: Any) -> AnyRes:
    settings = {"canvases": canvases, **options}
    facts: dict[str, Any] = {
        "model_type": model_type,
        "image_token_id": 3,
        "tokens_per_tile": side**2,
        "image_size": tile,
        "image_grid": ImageGrid(side=side, cell=1 / side),
        "family": {key: value for key, value in settings.items() if value is not None},
    }
    found = family_of(ModelFacts.model_construct(**facts))
    assert isinstance(found, AnyRes)
    return found


def llava_next() -> AnyRes:
    return family("llava_next", 336, 24, NEXT)


def onevision() -> AnyRes:
    return family("llava_onevision", 384, 27, ONEVISION, most_tiles=9)


def shape(rows: int, columns: int, size: tuple[int, int]) -> ImageShape:
    return ImageShape(rows=rows, columns=columns, views=(View(kind="global"),), size=size)


def test_tokens_of_models_in_use() -> None:
    # 576 of the overview, 36 rows of 48 tokens and an end: the picture fills 3/4 of its canvas's height.
    assert llava_next().token_count(shape(2, 2, (480, 640))) == 576 + 36 * 49
    # 6 x 6 tiles of 27 x 27 would be 26,244 tokens; those of nine tiles are kept.
    assert onevision().token_count(shape(6, 6, (3000, 3000))) == 729 + 81 * 82
    assert onevision().token_count(shape(0, 0, (480, 640))) == 729 + 1
    text = onevision().placeholders(
        ImageTokens(image="<i>", special_tokens={}), shape(0, 0, (4, 4))
    )
    assert text == "<i>" * 730


def test_views_say_which_token_shows_what() -> None:
    overview, rows = llava_next().views(shape(2, 2, (480, 640)))
    assert (overview.kind, overview.box, overview.grid) == ("global", (0, 0, 1, 1), None)
    assert (rows.kind, rows.grid, rows.newline) == ("whole", (36, 48), True)
    assert rows.box == pytest.approx((0, 0, 1, 1))
    square = ImageShape(
        rows=0, columns=0, views=(View(kind="crop", box=(0, -1, 1, 2)),), size=(10, 30)
    )
    whole, end = onevision().views(square)
    assert whole == square.views[0]
    assert (end.grid, end.newline, end.tokens) == ((1, 0), True, 1)
    for image in (square, shape(2, 2, (480, 640)), shape(6, 1, (3000, 1)), shape(1, 6, (1, 3000))):
        views = onevision().views(image)
        counted = sum(729 if view.grid is None else view.tokens for view in views)
        assert counted == onevision().token_count(image)


def test_a_processors_arrays_are_read_without_their_padding() -> None:
    ours = family("llava_next", 24, 3, [[24, 48], [48, 48]])
    sizes = np.array([[20, 48], [40, 48]])
    pixels = np.zeros((2, 5, 3, 24, 24), np.float32)
    pixels[0, :3], pixels[1] = 1, 2
    places = ours.token_count(shape(1, 2, (20, 48))) + ours.token_count(shape(2, 2, (40, 48)))
    ids = np.full((1, places), 3)
    found = ours.from_transformers({"pixel_values": pixels, "image_sizes": sizes}, ids)
    assert found is not None
    assert [float(tile[0, 0, 0]) for tile in found[0]] == [1, 1, 1, 2, 2, 2, 2, 2]
    assert [(image.rows, image.columns) for image in found[1]] == [(1, 2), (2, 2)]
    assert ours.from_transformers({}, ids) is None
    with pytest.raises(DataError, match="pixel_values came without image_sizes"):
        ours.from_transformers({"pixel_values": pixels}, ids)
    with pytest.raises(
        DataError,
        match=f"images of {places} image tokens and 8 tiles for {places - 1} places in the prompt and 8 tiles; take ids",
    ):
        ours.from_transformers({"pixel_values": pixels, "image_sizes": sizes}, ids[:, 1:])


def test_images_that_stand_together_have_no_tiles() -> None:
    ours = family("llava_onevision", 24, 3, [[24, 48]], most_tiles=9)
    inputs = {
        "pixel_values": np.zeros((3, 3, 3, 24, 24), np.float32),
        "image_sizes": np.array([[24, 48], [9, 5], [5, 9]]),
        "batch_num_images": np.array([1, 2]),
    }
    alone = ours.token_count(shape(1, 2, (24, 48)))
    found = ours.from_transformers(inputs, np.full((1, alone + 20), 3))
    assert found is not None
    assert [(image.rows, image.columns) for image in found[1]] == [(1, 2), (0, 0), (0, 0)]
    assert len(found[0]) == 5


def test_a_sample_leaves_a_part_of_its_canvas_free() -> None:
    for ours in (llava_next(), onevision()):
        sample = ours.sample_image(np.random.default_rng(0))
        rows, columns = sample.shape.rows, sample.shape.columns
        assert len(sample.pixel_values) == rows * columns + 1
        whole = rows * columns * ours.tokens_per_tile
        _, cut = ours.views(sample.shape)
        assert cut.grid is not None
        assert cut.grid[0] * cut.grid[1] < whole


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"canvases": None}, "canvases: Field required"),
        ({"canvases": []}, "canvases: Tuple should have at least 1 item"),
        ({"canvases": [[336, 336]] * 257}, "canvases: Tuple should have at most 256 items"),
        (
            {"canvases": [[336, 1 << 40]]},
            "canvases.0.1: Input should be less than or equal to 16384",
        ),
        ({"canvases": [[336, "672"]]}, "canvases.0.1: Input should be a valid integer (got '672')"),
        ({"most_tiles": 0}, "most_tiles: Input should be greater than or equal to 1 (got '0')"),
        ({"pinpoints": 1}, "pinpoints: Extra inputs are not permitted"),
    ],
)
def test_settings_of_a_manifest_are_bounded(changes: dict[str, Any], words: str) -> None:
    settings: dict[str, Any] = {"canvases": NEXT, **changes}
    with pytest.raises(BundleError) as caught:
        family("llava_next", 336, 24, **settings)
    text = str(caught.value)
    assert text.startswith("the manifest's model.family cannot be that of a llava_next: ")
    assert words in text
    assert text.endswith("; export the bundle again")


def test_tiles_and_canvases_must_fit() -> None:
    with pytest.raises(
        BundleError, match=r"canvases hold \[336, 700\], which is not made of whole tiles of 336"
    ):
        family("llava_next", 336, 24, [[336, 700]])
    facts = llava_next().facts
    grid = ImageGrid(side=24, first=-1, cell=1 / 24)
    with pytest.raises(
        BundleError,
        match="tiles of 576 image tokens in a grid of 24 from -1, expected a square from 0",
    ):
        family_of(facts.model_copy(update={"image_grid": grid}))
