"""The graph of one traced layer, stamped for the others, is the graph of all layers traced: for every family."""

from __future__ import annotations

import pytest

from moir_edge.export import TracedModel
from moir_edge.export.attention import export_attention
from moir_edge.export.components import component_module
from moir_edge.export.repeated_layers import RepeatedLayers
from moir_edge.export.tracing import trace
from tests.unit.export.graph_text import graph_lines

pytestmark = pytest.mark.slow  # a whole trace of each component

TRACED_WHOLE: dict[tuple[str, str], str] = {}
"""Components of families whose layers are all traced, with the reason."""


@pytest.mark.parametrize("component", ["vision", "decoder"])
def test_a_stamped_graph_is_the_whole_trace(
    component: str, traced: TracedModel, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint, spec = traced.checkpoint, traced.specs[component]
    with checkpoint.without_router(), export_attention(checkpoint.model):
        module = component_module(checkpoint, component)
        assert RepeatedLayers(module)
        stamped = trace(module, spec)
        whole = trace(module, spec, whole=True)
    assert graph_lines(stamped) == graph_lines(whole)
    is_stamped = "every layer is traced" not in caplog.text
    assert is_stamped is ((traced.facts.model_type, component) not in TRACED_WHOLE)
