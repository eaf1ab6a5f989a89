#!/usr/bin/env bash
# onnxruntime 1.31.1: GroupQueryAttention with do_rotary and position_ids reads a first prompt's first position alone, on the CPU.
#
# Expected: its optional input position_ids, (batch, sequence), says where each token stands, so a prompt may have gaps.
# Seen:     Where total_sequence_length is the length of the run, the operator takes it for a first prompt and counts on from the
#           first position: 0, 3, 7 gives what 0, 1, 2 gives, without a word. Once total_sequence_length is larger by one, each
#           position is read, and the output is that of an attention whose queries and keys were turned before.
# Output seen:
#   gaps against counted: 0.0
#   gaps against turned before: 0.6
#   gaps with one token announced against turned before: 0.0
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

HEAD, TOKENS, ROOM = 16, 3, 8
FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64
random = np.random.default_rng(0)
angles = np.arange(16)[:, None] * 100.0 ** (-np.arange(HEAD // 2) / (HEAD // 2))
tables = {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}


def session(inside):
    """Attention that turns queries and keys itself, or has them turned by RotaryEmbedding before."""
    names = ["q", "k", "v", "past_k", "past_v", "seqlens_k", "total"]
    nodes = []
    if not inside:
        for one in "qk":
            inputs = [one, "positions", "cos", "sin"]
            nodes.append(
                helper.make_node("RotaryEmbedding", inputs, [f"{one}_turned"], domain="com.microsoft", num_heads=1)
            )
            names[names.index(one)] = f"{one}_turned"
    own = [*names, "cos", "sin", "positions"] if inside else names
    nodes.append(
        helper.make_node(
            "GroupQueryAttention", own, ["y", "present_k", "present_v"], domain="com.microsoft",
            num_heads=1, kv_num_heads=1, do_rotary=int(inside),
        )
    )
    value = helper.make_tensor_value_info
    inputs = [value(one, FLOAT, [1, TOKENS, HEAD]) for one in "qkv"]
    inputs += [value(one, FLOAT, [1, 1, ROOM, HEAD]) for one in ("past_k", "past_v")]
    inputs += [value("seqlens_k", INT32, [1]), value("total", INT32, []), value("positions", INT64, [1, TOKENS])]
    outputs = [value("y", FLOAT, [1, TOKENS, HEAD])]
    outputs += [value(one, FLOAT, [1, 1, ROOM, HEAD]) for one in ("present_k", "present_v")]
    constants = [helper.make_tensor(name, FLOAT, table.shape, table.ravel()) for name, table in tables.items()]
    graph = helper.make_graph(nodes, "attention", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


tokens = {one: 2 * random.standard_normal((1, TOKENS, HEAD)).astype(np.float32) for one in "qkv"}
cache = {one: np.zeros((1, 1, ROOM, HEAD), np.float32) for one in ("past_k", "past_v")}


def run(attention, positions, total=TOKENS):
    feed = {**tokens, **cache, "positions": np.array([positions], np.int64)}
    lengths = {"seqlens_k": np.array([TOKENS - 1], np.int32), "total": np.array(total, np.int32)}
    return attention.run(["y"], {**feed, **lengths})[0]


def apart(one, other):
    return round(float(np.abs(one - other).max()), 1)


fused, plain = session(inside=True), session(inside=False)
gaps, counted = [0, 3, 7], [0, 1, 2]
turned = run(plain, gaps)
assert apart(run(fused, counted), run(plain, counted)) == 0.0
print(f"gaps against counted: {apart(run(fused, gaps), run(fused, counted))}")
assert apart(run(fused, gaps), run(fused, counted)) == 0.0
print(f"gaps against turned before: {apart(run(fused, gaps), turned)}")
assert apart(run(fused, gaps), turned) > 0.0
announced = run(fused, gaps, total=TOKENS + 1)
print(f"gaps with one token announced against turned before: {apart(announced, turned)}")
assert apart(announced, turned) == 0.0
PY
env/bin/python probe.py
