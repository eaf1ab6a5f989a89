#!/usr/bin/env bash
# torch 2.13.0: scaled_dot_product_attention cannot be differentiated twice on a CPU, and does not fall back to the form that can.
#
# Expected: with create_graph=True, as for a penalty on gradients, it takes the form in plain matrix products.
# Seen:     the fused form runs, its first derivative too, and the second one raises. transformers' default attention ends there.
#           A block of sdpa_kernel(SDPBackend.MATH) around the forward pass is enough; the backward passes may lie outside.
# Output seen:
#   fused: derivative for aten::_scaled_dot_product_flash_attention_for_cpu_backward is not implemented
#   math: the second derivative is finite
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 numpy
cat > probe.py <<'PY'
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

query = torch.randn(1, 2, 16, 8, requires_grad=True)


def penalty(attended):
    (slope,) = torch.autograd.grad(attended.square().sum(), query, create_graph=True)
    return torch.autograd.grad(slope.square().sum(), query)[0]


try:
    penalty(scaled_dot_product_attention(query, query, query))
    raise SystemExit("the fused form was differentiated twice")
except RuntimeError as error:
    print(f"fused: {error}")
    assert "flash_attention_for_cpu_backward is not implemented" in str(error)
with sdpa_kernel(SDPBackend.MATH):
    attended = scaled_dot_product_attention(query, query, query)
assert penalty(attended).isfinite().all()
print("math: the second derivative is finite")
PY
env/bin/python probe.py
