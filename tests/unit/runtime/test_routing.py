from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import moir_edge
from moir_edge.bundle import ImageGrid
from moir_edge.errors import DataError
from moir_edge.runtime import EdgeModel, RoutingMap
from moir_edge.runtime.image_processor import View
from moir_edge.runtime.processor import EncodedPrompt
from moir_edge.runtime.routing_picture import (
    _cells_by_word,
    _counts,
    _dropped,
    _header,
    _reading,
    _words_title,
    draw_routing_map,
)


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> EdgeModel:
    return moir_edge.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def routing(model: EdgeModel, picture: Callable[..., Image.Image]) -> RoutingMap:
    return model.routing_map("What is left of the red digit?", [picture(12, 12), picture(30, 20)])


def test_routed_tokens_are_those_with_a_gate(routing: RoutingMap) -> None:
    # The hand-built router opens its gate for odd positions and scores position / 100.
    odd = [int(position) for position in routing.positions if position % 2]
    assert [token.position for token in routing.routed] == odd
    for token in routing.routed:
        assert token.score == pytest.approx(token.position / 100)
        assert token.margin == pytest.approx(token.position / 200)
        assert token.gate == pytest.approx(0.5)


def test_image_tokens_know_their_cell(routing: RoutingMap) -> None:
    cells = [cell for _, cell in routing.cells()]
    assert [(cell.image, cell.row, cell.column) for cell in cells] == [
        (image, row, column) for image in (0, 1) for row in (0, 1) for column in (0, 1)
    ]
    assert cells[1].box == pytest.approx((0.5, 0, 1, 0.5))
    assert cells[6].box == pytest.approx((0, 0.5, 0.5, 1))
    assert {cell.view for cell in cells} == {"whole"}


def test_sources_are_named_by_word_or_cell(routing: RoutingMap) -> None:
    first_text = int(routing.positions[routing.image_tokens])
    for token in routing.routed:
        (source,) = token.sources
        if token.side == "image":
            assert (source.side, source.position) == ("text", first_text)
            assert source.word == routing.word(first_text) == "User"
            assert token.word is None
            assert token.cell is not None
        else:
            assert source.side == "image"
            assert source.cell is not None
            assert (source.cell.image, source.cell.row, source.cell.column) == (0, 0, 0)
            assert token.cell is None


def test_pieces_of_a_word_carry_the_whole_word(routing: RoutingMap) -> None:
    words = [routing.word(int(position)) for position in routing.positions[routing.image_tokens :]]
    shown = [word for word in dict.fromkeys(words) if word.strip()]
    # The question mark stands alone or clings to its word; special tokens never join one.
    assert [word for word in shown if word not in ("User", ":", "?", "Assistant")] == [
        "What", "is", "left", "of", "the", "red", "digit",
    ]  # fmt: skip


def test_the_json_holds_everything(routing: RoutingMap) -> None:
    data = json.loads(json.dumps(routing.to_dict()))
    assert data["image_tokens"] == 8
    assert len(data["image_scores"]) == 8
    assert len(data["text_scores"]) == data["text_tokens"]
    assert len(data["routed"]) == len(routing.routed)
    image_token = data["routed"][0]
    assert image_token["side"] == "image"
    assert image_token["cell"]["box"][2] in (0.5, 1.0)
    assert image_token["sources"][0]["word"] == "User"
    assert "word" not in image_token
    assert {"score", "margin", "gate", "position"} <= set(image_token)


def test_padding_does_not_move_a_row_of_a_batch(
    model: EdgeModel, picture: Callable[..., Image.Image]
) -> None:
    rows = [
        ("Short?", [picture(12, 12)]),
        ("A longer question than that", [picture(12, 12), picture(9, 9)]),
    ]
    batch = model.generate(
        [row[0] for row in rows], [row[1] for row in rows], max_new_tokens=1
    ).routing
    assert batch is not None
    for ours, row in zip(batch, rows, strict=True):
        alone = model.routing_map(*row)
        np.testing.assert_array_equal(ours.positions, alone.positions)
        assert [token.sources for token in ours.routed] == [token.sources for token in alone.routed]


def _split_map(tokens_per_tile: int, views: tuple[View, ...]) -> RoutingMap:
    count = tokens_per_tile * len(views)
    text = "<i>" * count + " a cup"
    offsets = [(3 * index, 3 * index + 3) for index in range(count)]
    offsets += [(3 * count, 3 * count + 2), (3 * count + 2, 3 * count + 6)]
    prompt = EncodedPrompt(
        text="<i> a cup",
        expanded=text,
        ids=(0,) * (count + 2),
        offsets=tuple(offsets),
        images=(views,),
    )
    return RoutingMap(
        prompt=prompt,
        grid=ImageGrid.of_tokens(tokens_per_tile),
        image_tokens=count,
        positions=np.arange(count + 2),
        scores=np.linspace(0, 1, count + 2, dtype=np.float32),
        indices=np.array([[count + 1, count]] * count + [[0, 1]] * 2),
        margin=np.zeros(count + 2, np.float32),
        gate=np.full(count + 2, 0.7, np.float32),
    )


def test_cells_of_tiles_lie_in_the_whole_image() -> None:
    views = (
        View(kind="tile", row=0, column=0, box=(0, 0, 0.5, 1)),
        View(kind="tile", row=0, column=1, box=(0.5, 0, 1, 1)),
        View(kind="global"),
    )
    routing = _split_map(4, views)
    cells = dict(routing.cells())
    assert cells[4].box == pytest.approx((0.5, 0, 0.75, 0.5))
    assert (cells[4].view, cells[4].tile_column) == ("tile", 1)
    assert cells[11].box == pytest.approx((0.5, 0.5, 1, 1))
    assert cells[11].view == "global"
    assert [source.word for source in routing.routed[0].sources] == ["cup", "a"]


def test_a_class_token_has_no_cell() -> None:
    routing = _split_map(5, (View(kind="whole"),))
    assert routing.cell(0) is None
    cell = routing.cell(1)
    assert cell is not None
    assert (cell.row, cell.column) == (0, 0)


def test_tokens_that_end_rows_have_no_cell_and_count_for_none() -> None:
    rows = View(kind="whole", box=(0, -0.5, 1, 1.5), grid=(2, 1), newline=True)
    routing = _split_map(4, (View(kind="global"), rows))
    assert [routing.cell(place) is None for place in range(8)] == [False] * 5 + [True, False, True]
    last = routing.cell(6)
    assert last is not None
    assert (last.view, last.row, last.column) == ("whole", 1, 0)
    assert last.box == pytest.approx((0, 0.5, 1, 1.5))
    assert _cells_by_word(routing) == {"cup": 6}
    assert "enriched: 8 of 8 image tokens (2 without a part of the image), 2 of 2" in _counts(
        routing
    )


def test_a_dropped_first_patch_moves_the_cells() -> None:
    routing = _split_map(15, (View(kind="whole"),))
    places = [(cell.row, cell.column) for _, cell in routing.cells()]
    assert places == [(place // 4, place % 4) for place in range(1, 16)]


def test_cells_leave_the_rim_that_no_patch_covers() -> None:
    grid = ImageGrid(side=2, cell=0.4)
    routing = replace(_split_map(4, (View(kind="whole", box=(0, 0, 1, 0.5)),)), grid=grid)
    last = routing.cell(3)
    assert last is not None
    assert last.box == pytest.approx((0.4, 0.2, 0.8, 0.4))


def test_the_picture_shows_every_view(
    routing: RoutingMap, picture: Callable[..., Image.Image]
) -> None:
    drawn = draw_routing_map(routing, [picture(12, 12), picture(30, 20)])
    assert drawn.mode == "RGB"
    single = draw_routing_map(_split_map(4, (View(kind="whole"),)), [picture(12, 12)])
    layered = _split_map(4, (View(kind="tile", box=(0, 0, 1, 1)), View(kind="global")))
    double = draw_routing_map(layered, [picture(12, 12)])
    assert double.height > single.height + 400
    assert drawn.width == single.width == double.width


def test_the_picture_tells_both_answers_and_how_to_read_it() -> None:
    routing = _split_map(4, (View(kind="whole"),))
    image = Image.new("RGB", (40, 40), (128, 128, 128))
    plain = draw_routing_map(routing, [image])
    told = draw_routing_map(routing, [image], answers=("small", "large"))
    other = draw_routing_map(routing, [image], answers=("small", "small"))
    assert told.height == plain.height + 26  # one more line
    assert (np.asarray(told) != np.asarray(other)).any()
    assert "not what matters in the image" in _reading(routing)
    assert "marks such as <image>" in _counts(routing)
    words = [token for token in routing.routed if token.side == "text"]
    assert _words_title(routing, words) == (
        "words by gate, 2 of 2; their number is on the best source"
    )


def test_map_without_single_sources_is_drawn_and_says_so() -> None:
    routing = _split_map(4, (View(kind="whole"),))
    assert routing.names_sources
    pooled = RoutingMap(**{**_fields(routing), "indices": np.full((len(routing.gate), 1), -1)})
    assert not pooled.names_sources
    assert {token.sources for token in pooled.routed} == {()}
    image = Image.new("RGB", (40, 40), (128, 128, 128))
    drawn = [np.asarray(draw_routing_map(one, [image])) for one in (routing, pooled)]
    width = min(len(item) for item in drawn)
    assert (drawn[0][:width] != drawn[1][:width]).any()
    silent = RoutingMap(**{**_fields(pooled), "gate": np.zeros_like(pooled.gate)})
    assert silent.names_sources  # nothing was routed, so nothing says otherwise


def test_enriched_cells_are_tinted_and_others_are_not() -> None:
    routing = _split_map(4, (View(kind="whole"),))
    gate = routing.gate.copy()
    gate[1:4] = 0  # only the top left cell stays enriched
    one = RoutingMap(**{**_fields(routing), "gate": gate})
    none = RoutingMap(**{**_fields(routing), "gate": np.zeros_like(gate)})
    image = Image.new("RGB", (40, 40), (128, 128, 128))
    difference = np.asarray(draw_routing_map(one, [image]), np.int16)
    blank = np.asarray(draw_routing_map(none, [image]), np.int16)
    start = _header(one, None).height
    panel = np.s_[start : start + 500, 480:]  # the right panel starts 488 pixels from the left
    changed = np.argwhere(np.abs(difference[panel] - blank[panel]).sum(axis=2) > 0)
    height, width = changed.max(axis=0) - changed.min(axis=0) + 1
    # One of two by two cells of a panel 440 pixels wide.
    assert (height, width) == (220, 220)


def test_where_only_words_took_the_cells_show_how_many_took_from_them() -> None:
    routing = _split_map(4, (View(kind="whole"),))
    gate = routing.gate.copy()
    gate[:4] = 0
    indices = routing.indices.copy()
    indices[4:] = [
        [0, 1],
        [0, 2],
    ]  # both words took from cell 0, one each from 1 and 2, none from 3
    words = RoutingMap(**{**_fields(routing), "gate": gate, "indices": indices})
    none = RoutingMap(**{**_fields(routing), "gate": np.zeros_like(gate)})
    image = Image.new("RGB", (40, 40), (128, 128, 128))
    drawn, blank = (np.asarray(draw_routing_map(one, [image]), np.int16) for one in (words, none))
    height = min(len(drawn), len(blank))
    change = np.abs(drawn[:height] - blank[:height]).sum(axis=2)
    # The centres of the two by two cells, a little off so that no marker covers them; panels are 440 pixels wide.
    top, left = _header(words, None).height + 60, 488 + 40
    cells = [change[top + y, left + x] for y in (0, 220) for x in (0, 220)]
    assert cells[0] > cells[1] == cells[2] > cells[3] == 0


def test_dropped_cells_are_crossed_out_and_told() -> None:
    routing = _split_map(4, (View(kind="whole"),))
    assert routing.to_dict()["dropped"] == []
    gone = np.array([False, False, True, False])
    pruned = RoutingMap(**{**_fields(routing), "dropped": gone})
    assert pruned.to_dict()["dropped"] == [2]
    assert _dropped(pruned) == (
        "dropped: 1 of 4 image tokens, crossed out on the left; the language model did not read them"
    )
    image = Image.new("RGB", (40, 40), (128, 128, 128))
    whole, crossed = (
        np.asarray(draw_routing_map(one, [image]), np.int16) for one in (routing, pruned)
    )
    starts = [_header(one, None).height for one in (routing, pruned)]
    # The left panel, from below its title: 440 pixels wide, two by two cells.
    panels = [
        picture[start + 24 : start + 464, 24:464]
        for picture, start in zip((whole, crossed), starts, strict=True)
    ]
    changed = np.abs(panels[0] - panels[1]).sum(axis=2) > 0
    assert changed[220:, :218].any()
    assert not changed[:216].any()
    assert not changed[:, 224:].any()


def _fields(routing: RoutingMap) -> dict[str, Any]:
    names = (
        "prompt",
        "grid",
        "image_tokens",
        "positions",
        "scores",
        "indices",
        "margin",
        "gate",
        "dropped",
    )
    return {name: getattr(routing, name) for name in names}


def test_the_picture_needs_the_prompts_images(
    routing: RoutingMap, picture: Callable[..., Image.Image]
) -> None:
    with pytest.raises(DataError, match=r"has 2 image\(s\), 1 were given"):
        draw_routing_map(routing, [picture(12, 12)])


def test_a_map_needs_both_sides(model: EdgeModel) -> None:
    with pytest.raises(DataError, match="give at least one image"):
        model.routing_map("no image")
