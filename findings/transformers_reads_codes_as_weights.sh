#!/usr/bin/env bash
# transformers 5.23.0: from_pretrained takes int8, uint8 and float8 codes of a quantized checkpoint for weights, if config.json says nothing.
#
# Expected: a weight that the file holds in 8 bits and the model in float32 is refused, or at least reported: a scale belongs to it.
# Seen:     the codes become float32 numbers, a hundred to some thousand times the weights. No key is missing, unexpected or mismatched,
#           and nothing is logged. The record gets lost where a tool writes it to a file of its own (hf_quant_config.json,
#           quantize_config.json), or where a config.json is copied from the base model.
# Output seen:
#   torch.int8: loaded as torch.float32, 967 times the weight, complaints 0
#   torch.uint8: loaded as torch.float32, 7529 times the weight, complaints 0
#   torch.float8_e4m3fn: loaded as torch.float32, 100 times the weight, complaints 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0
env/bin/pip install --quiet transformers==5.23.0
cat > probe.py <<'PY'
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
)
LlamaForCausalLM(config).save_pretrained("whole")
name = "model.layers.0.self_attn.q_proj.weight"
folder = Path("codes")
folder.mkdir()
(folder / "config.json").write_text(Path("whole/config.json").read_text())
for kind, scale in ((torch.int8, 1000), (torch.uint8, 1000), (torch.float8_e4m3fn, 100)):
    weights = load_file("whole/model.safetensors")
    before = weights[name]
    weights[name] = (before * scale).to(kind)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model, info = LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
    after = model.state_dict()[name]
    ratio = (after.abs().mean() / before.abs().mean()).item()
    complaints = sum(len(found) for found in info.values())
    print(f"{kind}: loaded as {after.dtype}, {ratio:.0f} times the weight, complaints {complaints}")
    assert after.dtype == torch.float32 and ratio > 50 and complaints == 0
PY
env/bin/python probe.py 2> noise.txt || { cat noise.txt; exit 1; }
