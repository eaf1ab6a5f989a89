#!/usr/bin/env bash
# transformers 5.23.0 with accelerate 1.15.0: Trainer.train() leaves `use_cache` off in the model's config.
#
# Expected: training turns the key/value cache off while it runs, and the config is as before afterwards.
# Seen:     `config.use_cache` is True before and False after one step, and save_pretrained writes "use_cache": false.
#           Whoever loads that checkpoint decodes without a cache: the same tokens, each step over the whole sequence.
#           A tool that reads the flag from config.json takes the model for one that has no cache.
# Output seen:
#   before True, after False, in config.json False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0
env/bin/pip install --quiet transformers==5.23.0 accelerate==1.15.0
cat > probe.py <<'PY'
import json

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

config = LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
)
model = LlamaForCausalLM(config)
before = model.config.use_cache
rows = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 2
arguments = TrainingArguments(
    "runs", max_steps=1, report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True
)
Trainer(model, arguments, train_dataset=rows).train()
model.save_pretrained("trained")
saved = json.load(open("trained/config.json"))["use_cache"]
print(f"before {before}, after {model.config.use_cache}, in config.json {saved}")
assert (before, model.config.use_cache, saved) == (True, False, False)
PY
env/bin/python probe.py 2> noise.txt || { cat noise.txt; exit 1; }
