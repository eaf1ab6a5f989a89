#!/usr/bin/env bash
# transformers 5.23.0: position_ids with a gap make a prompt several sequences that do not see each other, where no mask is given.
#
# Expected: position_ids say where tokens stand. Tokens that were dropped leave a gap, and the others go on seeing what came before.
# Seen:     Without attention_mask and cache, every step of position_ids other than 1 starts another packed sequence: the logits are
#           those of the tokens behind the last gap alone. A mask of ones, which says nothing else, brings the whole prompt back.
# Output seen:
#   no mask, against the tokens behind the gap alone: 0.0
#   no mask, against a mask of ones: 0.08
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 transformers==5.23.0
cat > probe.py <<'PY'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2
)
model = LlamaForCausalLM(config).eval()
ids = torch.arange(3, 11)[None]
positions = torch.tensor([[0, 1, 2, 3, 9, 10, 11, 12]])


@torch.no_grad()
def last(**given):
    return model(**given, use_cache=False).logits[0, -1]


def apart(one, other):
    return round(float((one - other).abs().max()), 2)


without = last(input_ids=ids, position_ids=positions)
alone = last(input_ids=ids[:, 4:], position_ids=positions[:, 4:])
whole = last(input_ids=ids, position_ids=positions, attention_mask=torch.ones_like(ids))
print(f"no mask, against the tokens behind the gap alone: {apart(without, alone)}")
assert apart(without, alone) == 0.0
print(f"no mask, against a mask of ones: {apart(without, whole)}")
assert apart(without, whole) > 0.0
PY
env/bin/python probe.py
