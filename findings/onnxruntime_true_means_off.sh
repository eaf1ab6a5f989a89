#!/usr/bin/env bash
# onnxruntime 1.32.0: what a session option that is switched on by "1" does with other words for yes.
#
# Expected: add_session_config_entry or the session refuses a value that the option does not know, or logs a warning.
# Seen:     "true", "on", "yes" and "2" are taken without a word, at the most verbose log level too, and mean OFF: only "1" is on.
#           A key that does not exist is taken without a word as well.
# Output seen:
#   0: Gelu
#   1: FastGelu
#   true: Gelu
#   True: Gelu
#   on: Gelu
#   yes: Gelu
#   2: Gelu
#   lines of the log that name the option: 0
set -euo pipefail
export ORT_DISABLE_TELEMETRY=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet onnxruntime==1.32.0 onnx==1.23.2
cat > probe.py <<'PY'
import onnx
import onnxruntime
from onnx import TensorProto, helper

OPTION = "optimization.enable_gelu_approximation"  # replaces Gelu by FastGelu
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
node = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
graph = helper.make_graph([node], "one", [x], [y])
model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
found = {}
for value in ("0", "1", "true", "True", "on", "yes", "2"):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 0
    options.optimized_model_filepath = f"{value}.onnx"
    options.add_session_config_entry(OPTION, value)
    options.add_session_config_entry(OPTION + "_of_another_name", value)
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (left,) = onnx.load(f"{value}.onnx").graph.node
    found[value] = left.op_type
    print(f"{value}: {left.op_type}")
assert {value for value, operator in found.items() if operator == "FastGelu"} == {"1"}
PY
env/bin/python probe.py 2> log.txt || { cat log.txt; exit 1; }
# The verbose log repeats all options of a session on one line; a warning would be a line of its own.
named=$(grep "enable_gelu_approximation" log.txt | grep -vcE "Session Options|config_options" || true)
echo "lines of the log that name the option: $named"
test "$named" = 0
test "$(grep -c . log.txt)" -gt 0
