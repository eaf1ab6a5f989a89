#!/usr/bin/env bash
# transformers 5.23.0: AyaVisionForConditionalGeneration leaves out its language model's logit_scale.
#
# Expected: the logits of a text prompt are those of Cohere2ForCausalLM with the same weights: they are head output × logit_scale.
# Seen:     the vision-language class takes the decoder without the causal head's class and multiplies by nothing. With the scale 0.25 its
#           logits are 4 times those of the language model. Greedy answers are equal; those drawn at a temperature are not.
# Output seen:
#   logit_scale 0.25: logits of Aya Vision are 4.000 times those of Cohere 2
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0
env/bin/pip install --quiet transformers==5.23.0
cat > probe.py <<'PY'
import torch
from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    Cohere2Config,
    Cohere2ForCausalLM,
)

sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
text = {**sizes, "vocab_size": 64, "num_key_value_heads": 1, "head_dim": 8, "logit_scale": 0.25}
special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
torch.manual_seed(0)
config = AyaVisionConfig(
    vision_config={**sizes, "model_type": "siglip_vision_model", "image_size": 16, "patch_size": 8},
    text_config={**text, **special, "model_type": "cohere2"},
    image_token_index=3,
)
whole = AyaVisionForConditionalGeneration(config).eval()
alone = Cohere2ForCausalLM(Cohere2Config(**text, **special)).eval()
alone.model.load_state_dict(whole.model.language_model.state_dict())
alone.lm_head.load_state_dict(whole.lm_head.state_dict())
ids = torch.tensor([[5, 6, 7, 8]])
with torch.no_grad():
    pair = [model(input_ids=ids).logits[..., 1:] for model in (whole, alone)]  # the padding id's row is zero
ratio = (pair[0] / pair[1]).median().item()
print(f"logit_scale 0.25: logits of Aya Vision are {ratio:.3f} times those of Cohere 2")
assert abs(ratio - 4) < 1e-3
PY
env/bin/python probe.py 2> noise.txt || { cat noise.txt; exit 1; }
