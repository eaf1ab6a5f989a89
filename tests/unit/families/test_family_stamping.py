"""The graph of one traced layer, stamped for the others, is the graph of all layers traced: for every family."""

from __future__ import annotations

import pytest

from moir_edge.export import TracedModel
from moir_edge.export.attention import export_attention
from moir_edge.export.components import component_module
from moir_edge.export.repeated_layers import RepeatedLayers
from moir_edge.export.tracing import trace
from moir_edge.export.weights import stored_weights
from tests.unit.export.graph_text import graph_lines
from tests.unit.families.conftest import TOLD

pytestmark = pytest.mark.slow  # a whole trace of each component

TRACED_WHOLE: dict[tuple[str, str], str] = {}
"""Components of families whose layers are all traced, with the reason."""


@pytest.mark.parametrize("component", ["vision", "decoder"])
def test_a_stamped_graph_is_the_whole_trace(component: str, traced: TracedModel) -> None:
    checkpoint, spec = traced.checkpoint, traced.specs[component]
    with checkpoint.without_router(), export_attention(checkpoint.model):
        module = component_module(checkpoint, component)
        assert RepeatedLayers(module)
        weights = stored_weights(module, checkpoint.files)
        whole = trace(module, spec, weights=weights, whole=True)
    assert graph_lines(traced.graphs[component]) == graph_lines(whole)
    model_type = traced.facts.model_type
    is_stamped = f"{component}: every layer is traced" not in TOLD[model_type]
    assert is_stamped is ((model_type, component) not in TRACED_WHOLE)
