#!/usr/bin/env bash
# transformers 5.23.0 on torch 2.13.0: a model with one NaN in its output head answers, without an error or a warning.
#
# Expected: generate() raises, or says that a logit is not a number.
# Seen:     torch.argmax takes NaN for the largest value, so greedy decoding repeats the token whose row of the head holds the NaN.
#           A damaged checkpoint looks like a model that repeats itself. remove_invalid_values=True changes the answer, silently too.
# Output seen:
#   NaN in row 5 of the head: [5, 5, 5, 5]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0
env/bin/pip install --quiet transformers==5.23.0
cat > probe.py <<'PY'
import math

import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
)
model = LlamaForCausalLM(config).eval()
prompt = torch.arange(8, 13)[None]
whole = model.generate(prompt, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)
with torch.no_grad():
    model.lm_head.weight[5, 0] = math.nan
broken = model.generate(prompt, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)
answer = broken[0, 5:].tolist()
print(f"NaN in row 5 of the head: {answer}")
assert whole[0, 5:].tolist() != [5, 5, 5, 5]
assert answer == [5, 5, 5, 5]
PY
env/bin/python probe.py 2> noise.txt || { cat noise.txt; exit 1; }
