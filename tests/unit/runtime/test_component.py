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
