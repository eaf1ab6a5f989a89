#!/usr/bin/env bash
# peft 0.21.2: adapters that were frozen learn after a `with model.disable_adapter()` block.
#
# Expected: the block gives the model back as it was.
# Seen:     PeftModel.from_pretrained loads adapters for inference, without gradients. One block without them, to ask the base
#           model, and both factors require a gradient: leaving the block activates the adapters, which makes them trainable.
#           An optimizer that is made then, or a loop that counts or saves what requires a gradient, takes them along.
# Output seen:
#   tensors that require a gradient: 0 loaded, 0 inside, 2 after
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0
env/bin/pip install --quiet peft==0.21.2 transformers==5.23.0 accelerate==1.15.0
cat > probe.py <<'PY'
import torch
from peft import LoraConfig, PeftModel, get_peft_model


def base():
    return torch.nn.Sequential(torch.nn.Linear(4, 4))


def learning():
    return sum(parameter.requires_grad for parameter in model.parameters())


get_peft_model(base(), LoraConfig(target_modules=["0"])).save_pretrained("adapter")
model = PeftModel.from_pretrained(base(), "adapter")
loaded = learning()
with model.disable_adapter():
    inside = learning()
print(f"tensors that require a gradient: {loaded} loaded, {inside} inside, {learning()} after")
assert (loaded, inside, learning()) == (0, 0, 2)
PY
env/bin/python probe.py 2> noise.txt || { cat noise.txt; exit 1; }
