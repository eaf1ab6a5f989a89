#!/usr/bin/env bash
# onnxruntime-gpu 1.31.1 on a machine without CUDA's and TensorRT's libraries: what a session does with a provider that it cannot load.
#
# Expected: the session raises, or says on standard error that it goes on without the provider; `enable_fallback=False` makes it raise.
# Seen:     with TensorrtExecutionProvider the session is made on the CPU and the message is printed on STANDARD OUTPUT, where a
#           program that prints JSON has its answer. `enable_fallback=False` makes that one raise.
#           With CUDAExecutionProvider standard output stays empty, and `enable_fallback=False` changes nothing: the session is on the
#           CPU, without an exception. Only `get_providers()` tells.
#           get_available_providers() lists all three providers in both cases.
# Output seen:
#   TensorrtExecutionProvider, enable_fallback=True: session on ['CPUExecutionProvider'], standard output: '*************** EP Error ***************'
#   TensorrtExecutionProvider, enable_fallback=False: RuntimeError, standard output: ''
#   CUDAExecutionProvider, enable_fallback=True: session on ['CPUExecutionProvider'], standard output: ''
#   CUDAExecutionProvider, enable_fallback=False: session on ['CPUExecutionProvider'], standard output: ''
set -euo pipefail
export ORT_DISABLE_TELEMETRY=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet onnxruntime-gpu==1.31.1 onnx==1.23.2
cat > probe.py <<'PY'
import contextlib
import io

import onnxruntime
from onnx import TensorProto, helper

x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "negate", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
found = []
for provider in ("TensorrtExecutionProvider", "CUDAExecutionProvider"):
    assert provider in onnxruntime.get_available_providers()
    for fallback in (True, False):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            try:
                session = onnxruntime.InferenceSession(
                    model.SerializeToString(),
                    providers=[provider, "CPUExecutionProvider"],
                    enable_fallback=fallback,
                )
                outcome = f"session on {session.get_providers()}"
            except RuntimeError:
                outcome = "RuntimeError"
        first = printed.getvalue().partition("\n")[0]
        print(f"{provider}, enable_fallback={fallback}: {outcome}, standard output: {first!r}")
        found.append((outcome, first))
on_cpu = "session on ['CPUExecutionProvider']"
assert found == [
    (on_cpu, "*************** EP Error ***************"),
    ("RuntimeError", ""),
    (on_cpu, ""),
    (on_cpu, ""),
]
PY
env/bin/python probe.py 2> noise.txt || { cat noise.txt; exit 1; }
