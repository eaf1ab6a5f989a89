#!/usr/bin/env bash
# onnxruntime 1.31.1: an initializer that may be overridden takes an array from run(), and not from bind_cpu_input().
#
# Expected: what session.run() accepts as an input, an I/O binding accepts too: both feed the same graph.
# Seen:     The graph lists its initializer among its inputs, and get_overridable_initializers() names it. run() takes an array for
#           it, and bind_ortvalue_input() a value. bind_cpu_input() raises, because it looks up names among the required inputs alone.
# Output seen:
#   overridable: ['w']
#   run: [6.0, 8.0]
#   bind_cpu_input: RuntimeError: Failed to find NodeArg with name: w in the def list
#   bind_ortvalue_input: [6.0, 8.0]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet onnxruntime==1.31.1 onnx==1.23.2
cat > probe.py <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

value = helper.make_tensor_value_info
graph = helper.make_graph(
    [helper.make_node("Mul", ["x", "w"], ["y"])],
    "scaled",
    [value("x", TensorProto.FLOAT, [2]), value("w", TensorProto.FLOAT, [2])],
    [value("y", TensorProto.FLOAT, [2])],
    [helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 1.0])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
names = [one.name for one in session.get_overridable_initializers()]
print(f"overridable: {names}")
assert names == ["w"]
x, w = np.array([3, 4], np.float32), np.array([2, 2], np.float32)
fed = session.run(None, {"x": x, "w": w})[0].tolist()
print(f"run: {fed}")
assert fed == [6.0, 8.0]


def bound(bind):
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    bind(binding)
    binding.bind_output("y", "cpu")
    session.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()[0].tolist()


try:
    bound(lambda binding: binding.bind_cpu_input("w", w))
    raise SystemExit("bind_cpu_input takes the array now")
except RuntimeError as error:
    print(f"bind_cpu_input: RuntimeError: {str(error).splitlines()[0]}")
    assert "Failed to find NodeArg with name: w" in str(error)
taken = bound(lambda binding: binding.bind_ortvalue_input("w", ort.OrtValue.ortvalue_from_numpy(w)))
print(f"bind_ortvalue_input: {taken}")
assert taken == fed
PY
env/bin/python probe.py
