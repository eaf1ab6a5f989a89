"""Components run one by one: against plain calls of ONNX Runtime, and fed with values of another run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import moir_edge
from moir_edge.data.rows import Row
from moir_edge.evaluation.candidates.components import run_components
from moir_edge.router.positions import prompt_positions

# Two ways through the same graphs in ONNX Runtime: only the threads' order of sums may differ.
SAME = 1e-5


@pytest.fixture(scope="module")
def model(bundle: Path) -> Any:
    return moir_edge.load(bundle, threads=1)


def _inputs(model: Any, row: Row) -> Any:
    return model.encode([row.prompt], [list(row.images)])


def _run(bundle: Path, name: str, feed: dict[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(
        bundle / f"{name}.onnx", providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def test_own_run_is_that_of_the_graphs_called_by_hand(
    model: Any, bundle: Path, picture_rows: list[Row]
) -> None:
    inputs, facts = _inputs(model, picture_rows[0]), model.manifest.model
    run = run_components(model, inputs, None, 3)
    ids, mask = inputs.input_ids, inputs.attention_mask
    features = _run(bundle, "vision", {"pixel_values": inputs.pixel_values})["image_features"]
    text = _run(bundle, "embedding", {"input_ids": ids})["inputs_embeds"]
    np.testing.assert_allclose(run.image_features, features, atol=SAME)
    np.testing.assert_allclose(run.text_embeds, text, atol=SAME)
    placed = text.copy()
    placed[ids == facts.image_token_id] = features.reshape(-1, features.shape[-1])
    places = prompt_positions(
        ids, mask, facts.image_token_id, facts.special_token_ids, facts.newline_token_ids
    )
    routed = _run(bundle, "router", {"inputs_embeds": placed, **places._asdict()})
    assert run.routing is not None
    np.testing.assert_allclose(run.routed, routed["routed_embeds"], atol=SAME)
    np.testing.assert_array_equal(run.routing.indices, routed["router_indices"])
    embeds, length = routed["routed_embeds"], ids.shape[1]
    past = np.zeros((1, facts.num_kv_heads, 0, facts.head_dim), np.float32)
    names = [f"{layer}.{part}" for layer in range(facts.num_layers) for part in ("key", "value")]
    cache = dict.fromkeys(names, past)
    positions = np.arange(length)[None]
    for at in range(4):
        feed = {"inputs_embeds": embeds, "position_ids": positions}
        feed["attention_mask"] = np.ones((1, length + at), np.int64)
        step = _run(
            bundle,
            "decoder",
            {**feed, **{f"past_key_values.{name}": cache[name] for name in names}},
        )
        np.testing.assert_allclose(run.logits[at], step["logits"][0, -1], atol=SAME)
        if at < 3:
            assert run.tokens[at] == step["logits"][0, -1].argmax()
            cache = {name: step[f"present.{name}"] for name in names}
            token = run.tokens[at].reshape(1, 1)
            embeds = _run(bundle, "embedding", {"input_ids": token})["inputs_embeds"]
            positions = np.array([[length + at]])


def test_fed_with_its_own_values_it_gives_them_again(model: Any, picture_rows: list[Row]) -> None:
    inputs = _inputs(model, picture_rows[1])  # two images
    own = run_components(model, inputs, None, 2)
    fed = run_components(model, inputs, own, 2)
    for name in ("image_features", "text_embeds", "placed", "routed", "logits", "tokens"):
        np.testing.assert_array_equal(getattr(fed, name), getattr(own, name))


def test_each_component_reads_what_it_is_fed(model: Any, picture_rows: list[Row]) -> None:
    inputs = _inputs(model, picture_rows[0])
    own = run_components(model, inputs, None, 1)
    fed = run_components(model, inputs, replace(own, placed=own.placed * 2), 1)
    assert np.abs(fed.routed - own.routed).max() > 0.01
    np.testing.assert_array_equal(fed.logits, own.logits)  # the decoder read the reference's
    fed = run_components(model, inputs, replace(own, routed=own.routed * 2), 1)
    assert np.abs(fed.logits - own.logits).max() > 1e-4
    np.testing.assert_array_equal(fed.text_embeds, own.text_embeds)


def test_text_alone_is_not_routed(model: Any) -> None:
    run = run_components(model, model.encode(["What is red?"]), None, 0)
    assert run.image_features is None
    assert run.routing is None
    assert run.logits.shape[0] == 1
    np.testing.assert_array_equal(run.routed, run.placed)
