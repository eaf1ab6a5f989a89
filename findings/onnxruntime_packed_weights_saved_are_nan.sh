#!/usr/bin/env bash
# onnxruntime 1.31.1: packed weights that were saved and do not begin with a multiple of 64 bytes give NaN. 1.32.0 is right.
#
# Expected: session.save_external_prepacked_constant_initializers saves what a kernel packed beside the weights, and a session of the
#           saved graph maps that in place of packing again, with the same numbers.
# Seen:     The packed weights of MatMulNBits at accuracy level 4 have parts that begin with a multiple of 64 bytes in memory. Their
#           size here is not such a multiple, and the next weight follows in the file, bytes having no alignment: its own packed form
#           begins 62 bytes past one. 1.31.1 maps it there and finds the parts in the wrong places. The graph loads without a word and
#           gives NaN. With another order of the weights it is right by luck. 1.32.0 puts each on a multiple of 64.
# Output seen:
#   1.31.1 saved without packed weights: same bits
#   1.31.1 saved with packed weights (62 bytes past a multiple of 64): NaN
#   1.32.0 saved without packed weights: same bits
#   1.32.0 saved with packed weights (0 bytes past a multiple of 64): same bits
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > probe.py <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

packed = sys.argv[1] == "with"
random = np.random.default_rng(0)
codes, scales, nodes = [], [], []
for at in range(2):
    # (columns, blocks of 32, bytes of a block)
    code = random.integers(0, 256, (256, 8, 16), dtype=np.uint8)
    scale = random.uniform(0.001, 0.002, 256 * 8).astype(np.float32)
    codes.append(numpy_helper.from_array(code, f"codes{at}"))
    scales.append(numpy_helper.from_array(scale, f"scales{at}"))
    node = helper.make_node(
        "MatMulNBits", [f"x{at}", f"codes{at}", f"scales{at}"], [f"x{at + 1}"],
        domain="com.microsoft", K=256, N=256, bits=4, block_size=32, accuracy_level=4,
    )  # fmt: skip
    nodes.append(node)
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 256]) for name in ("x0", "x2")]
graph = helper.make_graph(nodes, "four bits", ends[:1], ends[1:], [*codes, *scales])
opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
onnx.save(model, "own.onnx", save_as_external_data=True, location="own.data", size_threshold=0)

options = ort.SessionOptions()
options.log_severity_level = 3
options.optimized_model_filepath = "saved.onnx"
add = options.add_session_config_entry
add("session.optimized_model_external_initializers_file_name", "saved.data")
add("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
if packed:
    add("session.save_external_prepacked_constant_initializers", "1")
x = random.standard_normal((3, 256)).astype(np.float32)
cpu = ["CPUExecutionProvider"]
expected = ort.InferenceSession("own.onnx", options, providers=cpu).run(None, {"x0": x})[0]
assert np.isfinite(expected).all()

saved = onnx.load("saved.onnx", load_external_data=False).graph.initializer
places = {
    one.name: int(entry.value.split("|")[1].split(";")[0])
    for one in saved
    for entry in one.external_data
    if entry.key.startswith("prepacked")
}
where = f" ({places['codes1'] % 64} bytes past a multiple of 64)" if packed else ""
options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
found = ort.InferenceSession("saved.onnx", options, providers=cpu).run(None, {"x0": x})[0]
said = "same bits" if np.array_equal(found, expected) else "other numbers"
said = said if np.isfinite(found).all() else "NaN"
print(f"{ort.__version__} saved {sys.argv[1]} packed weights{where}: {said}")
wanted = "NaN" if packed and ort.__version__ == "1.31.1" else "same bits"
assert said == wanted, f"expected {wanted}"
PY
for version in 1.31.1 1.32.0; do
    python3 -m venv "env-$version"
    "env-$version/bin/pip" install --quiet "onnxruntime==$version" onnx==1.23.2
    for packed in without with; do
        rm -f own.* saved.*
        "env-$version/bin/python" probe.py "$packed"
    done
done
