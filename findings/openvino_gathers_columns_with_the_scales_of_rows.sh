#!/usr/bin/env bash
# openvino 2026.4.1, CPU plugin, ONNX: rows of a quantized table that lies along its columns get the scales of other rows, without a word.
#
# Expected: DequantizeLinear (axis 1, one scale for each column) and Gather (axis 1) give codes times the scales of the columns asked for,
#           as the operators say and onnxruntime 1.31.1 computes.
# Seen:     each feature is multiplied by the scale of its own index instead: the codes are gathered first, and the scales are not gathered
#           with them. EXECUTION_MODE_HINT=ACCURACY changes nothing. The same table along its rows (axis 0 in both) is right.
#           Token tables that a head shares lie along their columns, so a quantized language model embeds wrongly and answers anyway.
# Output seen:
#   tokens as columns  onnxruntime [[4000, 1], [8000, 5], [12000, 9]], openvino [[40, 1], [800, 50], [12000, 900]]
#   tokens as rows     onnxruntime [[4000, 8000, 12000], [1, 5, 9]], openvino [[4000, 8000, 12000], [1, 5, 9]]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet openvino==2026.4.1 onnxruntime==1.31.1 onnx==1.23.2 numpy==2.4.4
cat > probe.py <<'PY'
import sys

sys.modules["openvino_telemetry"] = None  # importing openvino would report its use

import numpy as np
import onnxruntime as ort
import openvino as ov
from onnx import TensorProto, helper, numpy_helper

# Three features of four tokens, a column and a scale for each token.
CODES = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]], np.int8)
SCALES = np.array([1, 10, 100, 1000], np.float32)
IDS = np.array([3, 0])


def answers(axis):
    table = CODES if axis else np.ascontiguousarray(CODES.T)
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scales"], ["table"], axis=axis),
        helper.make_node("Gather", ["table", "ids"], ["y"], axis=axis),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["tokens"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(table, "codes"), numpy_helper.from_array(SCALES, "scales")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    content = model.SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    core = ov.Core()
    settings = {"EXECUTION_MODE_HINT": "ACCURACY"}
    compiled = core.compile_model(core.read_model(content), "CPU", settings)
    return session.run(None, {"ids": IDS})[0], compiled({"ids": IDS})[0]


for axis, name in ((1, "columns"), (0, "rows")):
    right, found = answers(axis)
    dequantized = CODES * SCALES
    assert np.array_equal(right, dequantized[:, IDS] if axis else dequantized.T[IDS])
    assert np.array_equal(right, found) == (axis == 0)
    shown = [one.astype(int).tolist() for one in (right, found)]
    print(f"tokens as {name:8} onnxruntime {shown[0]}, openvino {shown[1]}")
PY
env/bin/python probe.py
