#!/usr/bin/env bash
# onnxruntime 1.31.1, CPU on x86-64: a value that overflows float16 comes out finite, also past an explicit Cast.
#
# Expected: with all optimizations disabled, (x * 1000) * 0.001 in float16 is infinite for x = 200, as in numpy:
#           the product is 200,000, past 65,504. Casting it to float32 and back changes nothing.
# Seen:     200.1 in both graphs, with optimizations disabled and with all of them. Mul has no float16 kernel, so casts to float32 are put
#           around it, and a pair float32 -> float16 -> float32 is removed as if it did not round.
#           The overflow shows only where the value is also a graph output, and that output changes nothing else.
#           A float16 graph checked on this CPU passes and gives infinity on a GPU.
# Output seen:
#   two Mul                        200.1 at disabled, 200.1 at all
#   two Mul, Cast to fp32 and back 200.1 at disabled, 200.1 at all
#   product as a graph output      inf, and the answer beside it 200.1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet onnxruntime==1.31.1 onnx==1.23.2 numpy==2.4.4
cat > probe.py <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

X = np.array([200], np.float16)
CONSTANTS = [
    helper.make_tensor("thousand", TensorProto.FLOAT16, [1], np.array([1000], np.float16)),
    helper.make_tensor("thousandth", TensorProto.FLOAT16, [1], np.array([0.001], np.float16)),
]
UP = helper.make_node("Mul", ["x", "thousand"], ["product"])
PLAIN = [UP, helper.make_node("Mul", ["product", "thousandth"], ["y"])]
CAST = [
    UP,
    helper.make_node("Cast", ["product"], ["wide"], to=TensorProto.FLOAT),
    helper.make_node("Cast", ["wide"], ["narrow"], to=TensorProto.FLOAT16),
    helper.make_node("Mul", ["narrow", "thousandth"], ["y"]),
]
DISABLED = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
ALL = ort.GraphOptimizationLevel.ORT_ENABLE_ALL


def run(nodes, level, outputs=("y",)):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [1]) for name in outputs]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1])
    graph = helper.make_graph(nodes, "graph", [x], values, CONSTANTS)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [float(f"{float(one[0]):.4g}") for one in session.run(None, {"x": X})]


with np.errstate(over="ignore"):
    assert np.isinf(X * np.float16(1000) * np.float16(0.001)).all()
for name, nodes in (("two Mul", PLAIN), ("two Mul, Cast to fp32 and back", CAST)):
    (off,), (on,) = run(nodes, DISABLED), run(nodes, ALL)
    print(f"{name:30} {off} at disabled, {on} at all")
    assert off == on == 200.1
product, answer = run(PLAIN, DISABLED, ("product", "y"))
print(f"{'product as a graph output':30} {product}, and the answer beside it {answer}")
assert np.isinf(product)
assert answer == 200.1
PY
env/bin/python probe.py
