"""Mutants of every component against torch: each is refused with the line that names it; right graphs never are.

`pytest -q -s` on this file prints the table figure | mutant | line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from moir_edge.bundle import open_bundle
from moir_edge.errors import MoirEdgeError, NotFiniteError, ToleranceError
from moir_edge.export import assemble, load_checkpoint, trace_components

# Component -> its output that is scaled, and how the line about it begins.
OUTPUTS = {
    "vision": ("image_features", "vision"),
    "embedding": ("inputs_embeds", "embedding"),
    "router": ("routed_embeds", "router"),
    "decoder": ("logits", "prefill logits"),
}


@pytest.fixture(scope="module")
def routed(traced_models: Callable[[str], Any]) -> Any:
    """The traced graphs of a retrofitted LLaVA."""
    return traced_models("llava")


def _scaled(model: ir.Model, output: str, factor: float) -> ir.Model:
    """Return a copy of which one output is multiplied."""
    copy = model.clone()
    graph = copy.graph
    at = next(i for i, value in enumerate(graph.outputs) if value.name == output)
    old = graph.outputs[at]
    name = f"mutant/{len(graph)}"
    constant = ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape([]),
        const_value=ir.tensor(np.array(factor, np.float32), name=name),
    )
    graph.initializers[name] = constant
    node = ir.node("Mul", inputs=[old, constant], name=f"{name}/product")
    new = node.outputs[0]
    new.type, new.shape = ir.TensorType(ir.DataType.FLOAT), old.shape
    old.name, new.name = f"{name}/input", output
    graph.append(node)
    graph.outputs[at] = new
    return copy


def _with_weights(model: ir.Model, change: Callable[[Any], Any]) -> ir.Model:
    """Return a copy whose float matrices are changed."""
    copy = model.clone()
    for name, value in copy.graph.initializers.items():
        array = None if value.const_value is None else value.const_value.numpy()
        if array is not None and array.dtype == np.float32 and array.ndim == 2:
            value.const_value = ir.tensor(change(array).astype(np.float32), name=name)
    return copy


def _one_nan(array: Any) -> Any:
    changed = array.copy()
    changed[..., 0] = np.nan
    return changed


def _other(array: Any) -> Any:
    return np.random.default_rng(7).permutation(array.reshape(-1)).reshape(array.shape)


def _with_graphs(traced: Any, graphs: Mapping[str, ir.Model]) -> Any:
    """Return a model of other graphs and the same torch, whose answers stay known."""
    other = replace(traced, graphs=graphs)
    vars(other)["reference"] = traced.reference
    return other


def _line(traced: Any, graphs: Mapping[str, ir.Model], folder: Path, name: str, mutant: str) -> str:
    """Assemble a bundle of other graphs and return the refusal; nothing may be left behind."""
    with pytest.raises(MoirEdgeError) as caught:
        assemble(_with_graphs(traced, graphs), folder / "bundle")
    assert not list(folder.iterdir())
    print(f"| export: {name} | {mutant} | {caught.value} |")  # noqa: T201
    return str(caught.value)


@pytest.mark.parametrize("component", OUTPUTS)
def test_a_wrong_component_is_refused_by_name(component: str, routed: Any, tmp_path: Path) -> None:
    output, figure = OUTPUTS[component]
    graph = routed.graphs[component]
    for factor in (1.5, 1.001):
        mutant = {**routed.graphs, component: _scaled(graph, output, factor)}
        line = _line(routed, mutant, tmp_path, component, f"scale x {factor}")
        assert line.startswith(f"{figure}: max abs error ")
        assert line.endswith("tolerance 1e-04 (parity rtol); nothing was written")
    mutant = {**routed.graphs, component: _with_weights(graph, _one_nan)}
    line = _line(routed, mutant, tmp_path, component, "NaN")
    assert line.startswith(figure)
    assert (
        "NaN or infinite in the fp32 graph on the prompt 'two images', torch's are finite" in line
    )
    mutant = {**routed.graphs, component: _with_weights(graph, _other)}
    line = _line(routed, mutant, tmp_path, component, "swapped: another checkpoint's graph")
    assert line.startswith(figure)
    assert line.endswith("nothing was written")


def test_a_router_that_got_lost_is_refused(routed: Any, tmp_path: Path) -> None:
    graphs = {name: graph for name, graph in routed.graphs.items() if name != "router"}
    line = _line(routed, graphs, tmp_path, "router", "router removed, figure missing")
    assert line == "router: not compared with torch, so the graphs lack it; nothing was written"


@pytest.mark.parametrize(
    ("precision", "target", "factor"),
    [
        ("int8-weight-only", "cpu", np.nan),
        ("int4", "cpu", np.nan),
    ],
)
def test_what_is_not_finite_is_refused_in_every_precision(
    precision: str, target: str, factor: float, routed: Any, tmp_path: Path
) -> None:
    graph = _scaled(routed.graphs["vision"], "image_features", factor)
    graph = _scaled(graph, "image_features", factor)
    broken = _with_graphs(routed, {**routed.graphs, "vision": graph})
    with pytest.raises(NotFiniteError) as caught:
        assemble(broken, tmp_path / "bundle", precision=precision, target=target)
    line = str(caught.value)
    print(f"| export {precision}: vision | x {factor:g} | {line} |")  # noqa: T201
    assert line.startswith("vision: ")
    assert "NaN or infinite in the " in line
    assert line.endswith("; export vision in fp32")
    assert not list(tmp_path.iterdir())


def test_large_features_are_no_reason_to_refuse(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_checkpoint("llava")
    weights = load_file(folder / "model.safetensors")
    scaled = [name for name in weights if "multi_modal_projector.linear_2" in name]
    assert len(scaled) == 2  # weight and bias
    for name in scaled:
        weights[name] = weights[name] * 1000
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    traced = trace_components(load_checkpoint(folder))
    parity = open_bundle(assemble(traced, tmp_path / "right")).manifest.parity
    assert parity["reference_scale"]["vision"] > 10
    assert parity["max_rel_error"]["vision"] < 1e-5
    graph = _scaled(traced.graphs["vision"], "image_features", 1.001)
    wrong = _with_graphs(traced, {**traced.graphs, "vision": graph})
    with pytest.raises(
        ToleranceError, match=r"^vision: max abs error .* is 1\.00e-03 of the output's"
    ):
        assemble(wrong, tmp_path / "wrong")
    assert [path.name for path in tmp_path.iterdir()] == ["right"]
