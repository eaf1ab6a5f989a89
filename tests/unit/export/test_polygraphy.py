"""NVIDIA's `polygraphy` reads the graphs, model-local functions and external data included."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from moir_edge.graphs.writing import write_graphs

pytest.importorskip("polygraphy", reason="polygraphy is not installed (extra `dev`)")

COMPONENTS = ("vision", "embedding", "router", "decoder")


@pytest.fixture(scope="module")
def graphs(traced_models: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The written graphs of a tiny model with a token router."""
    folder = tmp_path_factory.mktemp("graphs")
    models = {name: graph.clone() for name, graph in traced_models("llava").graphs.items()}
    write_graphs(models, folder)
    return folder


def _polygraphy(folder: Path, *words: str) -> str:
    code = "import sys; from polygraphy.tools import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("component", COMPONENTS)
def test_inspect_shows_what_the_file_holds(component: str, graphs: Path) -> None:
    shown = _polygraphy(graphs, "inspect", "model", f"{component}.onnx", "--show", "layers")
    model = onnx.load(graphs / f"{component}.onnx", load_external_data=False)
    assert "ONNX Opset: 21" in shown
    assert f"---- {len(model.graph.node)} Node(s) ----" in shown
    assert f"---- {len(model.graph.input)} Graph Input(s) ----" in shown
    for value in (*model.graph.input, *model.graph.output):
        assert value.name in shown


def test_inspect_names_the_custom_operators(graphs: Path) -> None:
    shown = _polygraphy(graphs, "inspect", "model", "router.onnx", "--show", "layers")
    assert "Other Opsets: {'moir_edge': 1}" in shown
    for operator in ("TokenInformation", "SimilarityTopK", "RouteTokens"):
        assert f"[Op: {operator}]" in shown


def test_run_compares_as_documented(graphs: Path) -> None:
    inputs = ("--input-shapes", "pixel_values:[1,3,24,24]", "--val-range", "pixel_values:[-1,1]")
    _polygraphy(
        graphs,
        *("run", "vision.onnx", "--onnxrt", *inputs),
        *("--save-inputs", "inputs.json", "--save-outputs", "fp32.json"),
    )
    shown = _polygraphy(
        graphs,
        *("run", "vision.onnx", "--onnxrt", "--load-inputs", "inputs.json"),
        *("--load-outputs", "fp32.json", "--atol", "1e-3", "--rtol", "0"),
    )
    assert "Passed: 1/1 iterations" in shown
