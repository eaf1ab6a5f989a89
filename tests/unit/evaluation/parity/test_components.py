"""Components run one by one: against the exporter's own chain, and fed with values of another run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moir_edge
from moir_edge.data.rows import Row
from moir_edge.evaluation.candidates.components import run_components
from moir_edge.graphs.chain import GraphChain

# Two ways through the same graphs in ONNX Runtime: only the threads' order of sums may differ.
SAME = 1e-5


@pytest.fixture(scope="module")
def model(bundle: Path) -> Any:
    return moir_edge.load(bundle, threads=1)


def _inputs(model: Any, row: Row) -> Any:
    return model.encode([row.prompt], [list(row.images)])


def test_own_run_is_that_of_the_graph_chain(
    model: Any, bundle: Path, picture_rows: list[Row]
) -> None:
    inputs = _inputs(model, picture_rows[0])
    run = run_components(model, inputs, None, 3)
    manifest = model.manifest
    precisions = {name: entry.precision for name, entry in manifest.components.items()}
    chain = GraphChain(bundle, precisions, manifest.model)
    step = chain.prefill(inputs.input_ids, inputs.attention_mask, inputs.pixel_values)
    np.testing.assert_allclose(run.image_features, step.image_features, atol=SAME)
    np.testing.assert_allclose(run.text_embeds, step.text_embeds, atol=SAME)
    assert step.routing is not None
    assert run.routing is not None
    np.testing.assert_allclose(run.routed, step.routing["routed_embeds"], atol=SAME)
    np.testing.assert_array_equal(run.routing.indices, step.routing["router_indices"])
    for at in range(4):
        np.testing.assert_allclose(run.logits[at], step.logits[0], atol=SAME)
        if at < 3:
            assert run.tokens[at] == step.logits[0].argmax()
            step = chain.step(step, run.tokens[at].reshape(1, 1))


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
