#!/usr/bin/env bash
# onnx-ir 1.1.0: renaming a value of a model renames the tensor in the protobuf that the model was read from, and breaks that.
#
# Expected: `ir.from_proto` gives a model of its own; what is done to it leaves the ModelProto as it was.
# Seen:     the tensor of an initializer wraps the TensorProto and shares it. Setting the value's name writes through to the
#           TensorProto, while the nodes of the ModelProto go on to read the old name. The ModelProto is invalid afterwards, so a copy
#           of it has to be read where both are needed.
# Output seen:
#   names before: ['weight'] read by nodes: ['x', 'weight']
#   names after: ['renamed'] read by nodes: ['x', 'weight']
#   the proto is refused by the checker
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet onnx-ir==1.1.0 onnx==1.23.2 numpy==2.4.6
cat > probe.py <<'PY'
import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

graph = helper.make_graph(
    [helper.make_node("Mul", ["x", "weight"], ["y"])],
    "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    [numpy_helper.from_array(np.ones(4, np.float32), "weight")],
)
proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
onnx.checker.check_model(proto)


def names():
    return [t.name for t in proto.graph.initializer], list(proto.graph.node[0].input)


before = names()
print("names before:", before[0], "read by nodes:", before[1])
model = ir.from_proto(proto)
model.graph.initializers["weight"].name = "renamed"
after = names()
print("names after:", after[0], "read by nodes:", after[1])
assert before == (["weight"], ["x", "weight"]), before
assert after == (["renamed"], ["x", "weight"]), after
try:
    onnx.checker.check_model(proto)
except onnx.checker.ValidationError:
    print("the proto is refused by the checker")
else:
    raise SystemExit("the checker accepts the proto")
PY
env/bin/python probe.py
