#!/usr/bin/env bash
# onnxruntime 1.31.1: weights stored in float16 or bfloat16 take more memory of a CPU session than the same in float32.
#
# Expected: half the bytes on the disk are at most half the bytes in memory, or as many where the products are float32 anyway.
# Seen:     with session.disable_prepacking float32 weights of a file next to the graph stay mapped: the session has next to no memory of
#           its own, and pages go back to the system when it needs them. Weights in 16 bits behind a Cast are widened once, at load,
#           into memory of the process: twice their file, and none of it can be given back. (With prepacking all three copy 256 MB.)
# Output seen:
#   fp32: file 256 MB, memory of the process 2 MB
#   fp16: file 128 MB, memory of the process 258 MB
#   bf16: file 128 MB, memory of the process 258 MB
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet onnxruntime==1.31.1 onnx==1.23.2
cat > probe.py <<'PY'
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

KINDS = {
    "fp32": (TensorProto.FLOAT, np.float32),
    "fp16": (TensorProto.FLOAT16, np.float16),
    "bf16": (TensorProto.BFLOAT16, np.uint16),
}
name = sys.argv[1]
code, dtype = KINDS[name]
rows, columns = 1024, 65_536
weight = np.ones((rows, columns), dtype)
Path(f"{name}.data").write_bytes(weight.tobytes())
file = weight.nbytes >> 20
tensor = onnx.TensorProto(name="w", data_type=code, dims=[rows, columns], data_location=1)
for key, value in {"location": f"{name}.data", "offset": "0", "length": str(weight.nbytes)}.items():
    tensor.external_data.add(key=key, value=value)
del weight
nodes = [helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT)] if name != "fp32" else []
nodes.append(helper.make_node("MatMul", ["x", "wide" if nodes else "w"], ["y"]))
info = helper.make_tensor_value_info
x, y = info("x", TensorProto.FLOAT, [1, rows]), info("y", TensorProto.FLOAT, [1, columns])
graph = helper.make_graph(nodes, "product", [x], [y], [tensor])
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), f"{name}.onnx")


def own():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) >> 10


options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.add_session_config_entry("session.disable_prepacking", "1")
before = own()
session = ort.InferenceSession(f"{name}.onnx", options, providers=["CPUExecutionProvider"])
session.run(None, {"x": np.ones((1, rows), np.float32)})
taken = own() - before
print(f"{name}: file {file} MB, memory of the process {taken} MB")
assert taken < 20 if name == "fp32" else taken > 240
PY
for kind in fp32 fp16 bf16; do env/bin/python probe.py "$kind" 2> noise.txt || { cat noise.txt; exit 1; }; done
