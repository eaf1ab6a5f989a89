#!/usr/bin/env bash
# transformers 5.23.0 with accelerate 1.15.0: a run that diverged is logged with a loss of 0.0.
#
# Expected: the log shows NaN from the step on at which the loss is NaN.
# Seen:     `logging_nan_inf_filter` is on by default. With a log line per step it puts the mean of the steps logged before in
#           place of each NaN, which is 0.0 then. The log reads as a perfect fit while weights are NaN, and they are saved.
# Output seen:
#   by default [3.4587, 0.0, 0.0, 0.0], without the filter [3.4587, nan, nan, nan], weights finite: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0
env/bin/pip install --quiet transformers==5.23.0 accelerate==1.15.0
cat > probe.py <<'PY'
import math

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

CONFIG = LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
)
ROWS = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 8


def losses(**settings):
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG)
    arguments = TrainingArguments(
        "runs", max_steps=4, learning_rate=1e30, max_grad_norm=0, lr_scheduler_type="constant",
        logging_steps=1, per_device_train_batch_size=1, report_to=[], use_cpu=True,
        save_strategy="no", disable_tqdm=True, **settings,
    )
    trainer = Trainer(model, arguments, train_dataset=ROWS)
    trainer.train()
    found = [round(line["loss"], 4) for line in trainer.state.log_history if "loss" in line]
    return found, all(bool(weight.isfinite().all()) for weight in model.parameters())


default, finite = losses()
bare, _ = losses(logging_nan_inf_filter=False)
print(f"by default {default}, without the filter {bare}, weights finite: {finite}")
assert default[1:] == [0.0, 0.0, 0.0] and not finite
assert all(math.isnan(value) for value in bare[1:])
PY
env/bin/python probe.py 2> noise.txt || { cat noise.txt; exit 1; }
