#!/usr/bin/env bash
# onnx-ir 1.1.0: the weights of a model stay in memory when its last reference is gone, until the cycle collector runs.
#
# Expected: `del model` frees the arrays of its initializers at once: Python counts references, and nothing else holds them.
# Seen:     values, nodes and graph refer to each other. The collector counts objects and not bytes: a model of one gigabyte in a few
#           hundred objects may wait until long after the next one is loaded, and memory holds both. Call gc.collect() between them.
# Output seen:
#   after del model: alive
#   after 100 more objects: alive
#   after gc.collect(): freed
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet onnx-ir==1.1.0 onnx==1.23.2 numpy==2.4.6
cat > probe.py <<'PY'
import gc
import weakref

import numpy as np
import onnx_ir as ir


class Array(np.ndarray):
    """An array that can be watched."""


array = np.zeros(1000, np.float32).view(Array)
weight = ir.Value(name="w", const_value=ir.tensor(array))
x = ir.Value(name="x")
node = ir.Node("", "Mul", [x, weight])
graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[weight], opset_imports={"": 21})
model = ir.Model(graph, ir_version=10)
watched = weakref.ref(array)
gc.collect()
del array, weight, x, node, graph, model


def state(when):
    word = "freed" if watched() is None else "alive"
    print(f"{when}: {word}")
    return word


seen = [state("after del model")]
more = [[] for _ in range(100)]
seen += [state("after 100 more objects")]
gc.collect()
seen += [state("after gc.collect()")]
assert seen == ["alive", "alive", "freed"]
PY
env/bin/python probe.py
