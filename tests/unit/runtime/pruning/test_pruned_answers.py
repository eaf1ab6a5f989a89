"""Answers to prompts without some image tokens, against numpy that reads the kept tokens at the places that they had."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import moir_edge
from moir_edge.bundle.manifest import MANIFEST_NAME
from moir_edge.cli.main import main
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.runtime import EdgeModel
from moir_edge.runtime.generation import prepare_prompt
from moir_edge.runtime.pruning import ImageTokens, Pruning, prune_prompt, selector_named
from moir_edge.runtime.timing import Stopwatch

COUNT = 12
SELECTORS = ("density", "random", "norm", "similarity")


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> EdgeModel:
    return moir_edge.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def rows(picture: Callable[..., Image.Image]) -> list[tuple[str, list[Image.Image]]]:
    return [
        ("What is left?", [picture(12, 12)]),
        ("Both images show a green four", [picture(20, 9, 1), picture(7, 30, 2)]),
        ("no image at all", []),
        ("And a much longer question than all", [picture(12, 12, n) for n in range(3)]),
    ]


def _expected(
    model: EdgeModel, reference: Any, row: tuple[str, list[Image.Image]], share: float, by: str
) -> tuple[list[int], list[int]]:
    """Return the answer, and the numbers of the image tokens that were dropped."""
    inputs = model.encode(*row)
    ids = inputs.input_ids[0]
    embeds = reference.table[ids].copy()
    images = np.flatnonzero(ids == model.manifest.model.image_token_id)
    dropped: list[int] = []
    if inputs.pixel_values is not None:
        embeds[images] = reference.image_features(inputs.pixel_values).reshape(-1, 8)
        embeds += np.float32(0.5)  # what the hand-built router does
        density = (images * 0.01).astype(np.float32)
        tokens = ImageTokens(embeds=embeds[images], density=density, seed=5)
        stay = selector_named(by)(tokens, len(images) - int(share * len(images)))
        dropped = sorted(set(range(len(images))) - set(stay.tolist()))
    places = np.delete(np.arange(len(ids)), images[dropped])
    eos = model.manifest.model.eos_token_ids[0]
    return reference.greedy(embeds[places], eos, COUNT, places), dropped


@pytest.mark.parametrize("by", SELECTORS)
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("row", range(4))
def test_kept_tokens_keep_their_places(
    model: EdgeModel, reference: Any, rows: list[Any], row: int, share: float, by: str
) -> None:
    found = model.generate(
        *rows[row], max_new_tokens=COUNT, prune_image_tokens=share, prune_by=by, seed=5
    )
    answer, dropped = _expected(model, reference, rows[row], share, by)
    assert list(found.token_ids[0]) == answer
    assert found.dropped_image_tokens == (len(dropped),)
    assert found.prompt_tokens == (model.encode(*rows[row]).prompt_lengths[0],)
    if dropped:
        assert found.routing is not None
        assert found.routing[0].to_dict()["dropped"] == dropped
        assert found.timings.pruning_ms > 0


def test_dropping_changes_answers(model: EdgeModel, rows: list[Any]) -> None:
    whole, half = (
        [
            model.generate(*row, max_new_tokens=COUNT, prune_image_tokens=share).token_ids
            for row in rows
        ]
        for share in (0, 0.5)
    )
    assert whole != half  # otherwise no test here could fail
    assert whole[2] == half[2]  # it has no image


@pytest.mark.parametrize(
    ("by", "order"),
    # The hand-built router changes a row without images where another row of the batch has some.
    [("density", [0, 1]), ("density", [3, 0, 1]), *((by, [3, 0, 2, 1]) for by in SELECTORS[1:])],
)
def test_a_batch_gives_each_row_what_it_gets_alone(
    model: EdgeModel, rows: list[Any], order: list[int], by: str
) -> None:
    options: Any = {"max_new_tokens": COUNT, "prune_image_tokens": 0.5, "prune_by": by, "seed": 5}
    options["router"] = by == "density"
    alone = [model.generate(*rows[row], **options) for row in order]
    batch = model.generate(
        [rows[row][0] for row in order], [rows[row][1] for row in order], **options
    )
    assert batch.token_ids == tuple(one.token_ids[0] for one in alone)
    assert batch.dropped_image_tokens == tuple(one.dropped_image_tokens[0] for one in alone)
    assert batch.dropped_image_tokens == tuple(2 * len(rows[row][1]) for row in order)


def test_the_model_has_a_share_of_its_own(tiny_bundle: Path, rows: list[Any]) -> None:
    own = moir_edge.load(tiny_bundle, threads=1, prune_image_tokens=0.5, prune_by="norm")
    plain = moir_edge.load(tiny_bundle, threads=1)
    told: Any = {"prune_image_tokens": 0.5, "prune_by": "norm"}
    row = rows[3]
    assert own.generate(*row).token_ids == plain.generate(*row, **told).token_ids
    assert own.generate(*row).dropped_image_tokens == (6,)
    assert own.generate(*row, prune_image_tokens=0).token_ids == plain.generate(*row).token_ids
    dropped = own.routing_map(*row).dropped
    assert dropped is not None
    assert dropped.sum() == 6
    assert plain.routing_map(*row).dropped is None


def test_features_of_an_earlier_prompt_are_whole(tiny_bundle: Path, rows: list[Any]) -> None:
    kept = moir_edge.load(tiny_bundle, threads=1, image_cache_bytes=1 << 20)
    pruned = kept.generate(*rows[1], prune_image_tokens=0.75)
    whole = kept.generate(*rows[1])
    again = kept.generate(*rows[1], prune_image_tokens=0.75)
    assert (pruned.images_known, whole.images_known, again.images_known) == (False, True, True)
    assert whole.token_ids == moir_edge.load(tiny_bundle, threads=1).generate(*rows[1]).token_ids
    assert again.token_ids == pruned.token_ids


def test_density_needs_a_router_that_scores_tokens(
    make_bundle: Callable[..., Path], tiny_bundle: Path, tmp_path: Path, rows: list[Any]
) -> None:
    bare = make_bundle(tmp_path / "bare", router=False)
    others = "give another `prune_by`, one of random, norm, similarity"
    message = f"bare holds no router, so its image tokens have no density to drop them by; {others}"
    with pytest.raises(UnsupportedError, match=message):
        moir_edge.load(bare, prune_image_tokens=0.5)
    model = moir_edge.load(bare, threads=1)
    with pytest.raises(UnsupportedError, match=message):
        model.generate(*rows[0], prune_image_tokens=0.5)
    found = model.generate(*rows[0], prune_image_tokens=0.5, prune_by="similarity")
    assert found.dropped_image_tokens == (2,)
    assert found.routing is None
    with pytest.raises(UnsupportedError, match=f"the router is off, so image tokens .*; {others}"):
        moir_edge.load(tiny_bundle).generate(*rows[0], prune_image_tokens=0.5, router=False)


def test_a_channel_router_has_no_density(
    make_bundle: Callable[..., Path], tmp_path: Path, rows: list[Any]
) -> None:
    folder = make_bundle(tmp_path / "channel")
    manifest = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    manifest["router"]["kind"] = "channel"
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(UnsupportedError, match="a channel router does not score the density"):
        moir_edge.load(folder, verify=False, prune_image_tokens=0.25)


def test_a_prompt_without_words_is_refused(model: EdgeModel, rows: list[Any]) -> None:
    inputs, sessions = model.encode(*rows[0]), model.sessions
    family = model.processor.family
    prompt = prepare_prompt(sessions, family, inputs, Stopwatch(), router=False)
    half = Pruning(share=0.5, selector=selector_named("density"), needs_density=True, seed=0)
    with pytest.raises(
        DataError, match=r"a prompt has no words besides its images, so .* `prune_by`"
    ):
        prune_prompt(
            sessions, family.facts.image_token_id, inputs, prompt.embeds, prompt.decoder, None, half
        )


@pytest.mark.parametrize("share", ["1", "-0.5", "1.5"])
def test_the_command_refuses_other_shares(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], share: str
) -> None:
    code = main(["run", str(tiny_bundle), "-q", "-p", "hi", "--prune-image-tokens", share])
    told = capsys.readouterr().err
    assert code == 2
    assert f"prune_image_tokens is {float(share)}; it must be at least 0 and below 1" in told


def test_a_server_is_refused_before_it_listens(
    make_bundle: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = make_bundle(tmp_path / "bare", router=False)
    words = ["serve", str(bare), "-q", "--port", "0"]
    assert main([*words, "--prune-image-tokens", "2"]) == 2
    assert "prune_image_tokens is 2.0; it must be at least 0 and below 1" in capsys.readouterr().err
    assert main([*words, "--prune-image-tokens", "0.5"]) == 2
    told = capsys.readouterr().err
    assert "holds no router, so its image tokens have no density to drop them by" in told
    assert "give another --prune-by, one of random, norm, similarity" in told


def test_the_command_drops_and_tells(
    tiny_bundle: Path,
    tmp_path: Path,
    picture: Callable[..., Image.Image],
    capsys: pytest.CaptureFixture[str],
) -> None:
    photo, drawn, data = tmp_path / "photo.png", tmp_path / "map.png", tmp_path / "map.json"
    picture(20, 30).save(photo)
    words = ["run", str(tiny_bundle), "-q", "-i", str(photo), "-p", "What is left?"]
    words += ["--prune-image-tokens", "0.5"]
    assert main([*words, "--routing-map", str(drawn), "--routing-json", str(data)]) == 0
    assert "2 image tokens dropped" in capsys.readouterr().err
    assert json.loads(data.read_text(encoding="utf-8"))["dropped"] == [0, 1]
    assert drawn.stat().st_size > 1000
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dropped_image_tokens"] == 2
    assert main([*words, "--router", "off"]) == 2
    told = capsys.readouterr().err
    assert "the router is off, so image tokens have no density to drop them by" in told
    assert "give another --prune-by, one of random, norm, similarity" in told
    assert main([*words, "--prune-by", "nrom"]) == 2
    assert "unknown --prune-by nrom; did you mean 'norm'?" in capsys.readouterr().err
    assert main([*words, "--router", "off", "--prune-by", "norm"]) == 0
