"""What ONNX Runtime raises while it runs a graph becomes one line that names the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moir_edge import load
from moir_edge.errors import BundleError


@pytest.mark.parametrize("method", ["arrays", "values"])
@pytest.mark.parametrize(
    ("input_ids", "reason"),
    [
        (np.zeros((1, 1, 1), np.int64), "rank"),
        (np.zeros((1, 1), np.float32), "data type"),
        (np.full((1, 1), 1 << 40), "out of"),
    ],
)
def test_the_graph_that_cannot_run_is_named(
    tiny_bundle: Path, method: str, input_ids: np.ndarray, reason: str
) -> None:
    component = load(tiny_bundle).sessions.components["embedding"]
    outputs = {"arrays": ["inputs_embeds"], "values": {"inputs_embeds": "cpu"}}[method]
    with pytest.raises(BundleError) as caught:
        getattr(component, method)({"input_ids": input_ids}, outputs)
    message = str(caught.value)
    assert message.startswith(f"ONNX Runtime cannot run {tiny_bundle / 'embedding.onnx'}: ")
    assert reason in message
    assert caught.value.__cause__ is not None


def test_an_output_of_another_shape_is_named(tiny_bundle: Path) -> None:
    sessions = load(tiny_bundle).sessions
    sessions.facts = sessions.facts.model_copy(update={"hidden_size": 7, "tokens_per_tile": 5})
    with pytest.raises(BundleError) as caught:
        sessions.embed(np.zeros((1, 3), np.int64))
    assert str(caught.value) == (
        f"{tiny_bundle / 'embedding.onnx'} gave an array of shape (1, 3, 8), expected (1, 3, 7); export the bundle again"
    )
    with pytest.raises(
        BundleError, match=r"vision\.onnx gave an array of shape \(2, 4, 8\), expected \(2, 5, 7\)"
    ):
        sessions.run_vision({"pixel_values": np.zeros((2, 3, 12, 12), np.float32)})
