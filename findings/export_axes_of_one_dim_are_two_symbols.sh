#!/usr/bin/env bash
# torch 2.13.0: two inputs that share one Dim have two symbols inside of the module, until an operator needs them to be one.
#
# Expected: dynamic_shapes=({0: batch}, {0: batch}) says that both first axes are `batch`, so both shapes name one symbol.
# Seen:     they name two until torch.cat joins the inputs. Code that compares shapes by their symbols while it is traced
#           takes the axes of equal inputs for different ones. torch._check(a.shape[0] == b.shape[0]) at the start makes them one.
# Output seen:
#   before torch.cat: one symbol is False; after: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0
cat > probe.py <<'PY'
import torch
from torch.export import Dim, export

seen = []


def one_symbol(a, b):
    return str(a.shape[0].node.expr) == str(b.shape[0].node.expr)


class Joined(torch.nn.Module):
    def forward(self, a, b):
        before = one_symbol(a, b)
        joined = torch.cat([a, b], dim=1)
        seen.append((before, one_symbol(a, b)))
        return joined


batch = Dim("batch")
inputs = (torch.ones(3, 2), torch.ones(3, 2))
export(Joined(), inputs, dynamic_shapes=({0: batch}, {0: batch}), strict=False)
print(f"before torch.cat: one symbol is {seen[0][0]}; after: {seen[0][1]}")
assert seen[0] == (False, True)
PY
env/bin/python probe.py 2> noise.txt || { cat noise.txt; exit 1; }
