"""Narrow weights that are widened at each run: in a session that runs in order they take memory one at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from moir_edge.calibration.narrow_storage import store_narrow
from moir_edge.children import child_environment
from moir_edge.graphs.sessions import cpu_session
from moir_edge.graphs.stored import StoredTensor
from moir_edge.graphs.writing import write_graphs
from tests.unit.graphs.test_stored import Weight

WIDTH, LAYERS = 1024, 16
WEIGHT = 4 * WIDTH * WIDTH

# Anonymous memory after a run, less that before the session: what was widened and not given back.
RUN = """
import sys
import numpy as np
from moir_edge.graphs.sessions import cpu_session

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

before = anonymous()
session = cpu_session(
    sys.argv[1],
    {"session.disable_prepacking": "1"},
    arena=False,
    in_order=True,
)
feed = {"x0": np.ones((2, int(sys.argv[2])), np.float32)}
session.run(None, feed)
print(anonymous() - before)
"""


def _model() -> ir.Model:
    """Return products and norms in turn; ONNX Runtime would rewrite both, and put the new nodes last."""
    constants = [numpy_helper.from_array(np.ones(WIDTH, np.float32), "scale")]
    constants += [
        numpy_helper.from_array(np.zeros((WIDTH, WIDTH), np.float32), f"w{at}")
        for at in range(LAYERS)
    ]
    nodes = []
    for at in range(LAYERS):
        nodes += [
            helper.make_node("LayerNormalization", [f"x{at}", "scale"], [f"n{at}"]),
            helper.make_node("MatMul", [f"n{at}", f"w{at}"], [f"m{at}"], name=f"layer{at}"),
            helper.make_node("Add", [f"m{at}", f"x{at}"], [f"x{at + 1}"]),
        ]
    ends = [
        helper.make_tensor_value_info(f"x{at}", TensorProto.FLOAT, ["rows", WIDTH])
        for at in (0, LAYERS)
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    found = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    for at in range(LAYERS):
        found.graph.initializers[f"w{at}"].const_value = StoredTensor(Weight(WIDTH, WIDTH))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph with float32 weights, and with those of the checkpoint."""
    folder = tmp_path_factory.mktemp("graphs")
    model = _model()
    write_graphs({"wide": model}, folder)
    store_narrow(model, None)
    write_graphs({"narrow": model}, folder)
    return folder


def test_the_weights_of_the_checkpoint_are_exact_and_half_as_large(folder: Path) -> None:
    sizes = [(folder / f"{name}.data").stat().st_size for name in ("wide", "narrow")]
    # All weights of the test are the same numbers, and stored once; the norms' scale is float32.
    assert sizes == [WEIGHT + 4 * WIDTH, WEIGHT // 2 + 4 * WIDTH]
    feed = {"x0": np.random.default_rng(3).standard_normal((2, WIDTH)).astype(np.float32)}
    wide = cpu_session(str(folder / "wide.onnx")).run(None, feed)[0]
    narrow = cpu_session(str(folder / "narrow.onnx"), arena=False, in_order=True).run(None, feed)[0]
    # The order of float32 sums differs between the two kernels.
    np.testing.assert_allclose(narrow, wide, rtol=0, atol=1e-5 * np.abs(wide).max())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_widened_weight_lies_in_memory_at_a_time(folder: Path) -> None:
    command = [sys.executable, "-c", RUN, str(folder / "narrow.onnx"), str(WIDTH)]
    done = subprocess.run(
        command, env=child_environment(), capture_output=True, text=True, check=True
    )
    # A fifth of what all of them take; a session that rewrites the graph keeps them all.
    assert int(done.stdout) < LAYERS * WEIGHT / 5
