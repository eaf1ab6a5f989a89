#!/usr/bin/env bash
# transformers 5.23.0: set_attn_implementation refuses the value that the same model's config had before.
#
# Expected: before = model.config._attn_implementation; set "eager"; set `before` again: the model is as it was.
# Seen:     a LLaVA with the language model of Gemma 2 says 'sdpa' as a whole and 'eager' for its language model. Given back as a whole,
#           'sdpa' goes to every part, and Gemma 2 raises ValueError. Each part's own value has to be kept and given back.
# Output seen:
#   whole 'sdpa', language model 'eager'; given back: ValueError: Gemma2Model does not support an attention implementation thr
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0
env/bin/pip install --quiet transformers==5.23.0
cat > probe.py <<'PY'
from transformers import LlavaConfig, LlavaForConditionalGeneration

sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
text = {"model_type": "gemma2", "vocab_size": 16, "head_dim": 4, "num_key_value_heads": 1}
config = LlavaConfig(
    vision_config={**sizes, "model_type": "clip_vision_model", "image_size": 8, "patch_size": 4},
    text_config={**sizes, **text},
)
model = LlavaForConditionalGeneration(config)
whole = model.config._attn_implementation
inner = model.config.text_config._attn_implementation
model.set_attn_implementation("eager")
try:
    model.set_attn_implementation(whole)
except ValueError as error:
    given_back = f"ValueError: {str(error)[:60]}"
print(f"whole {whole!r}, language model {inner!r}; given back: {given_back}")
assert (whole, inner) == ("sdpa", "eager")
PY
env/bin/python probe.py 2> noise.txt || { cat noise.txt; exit 1; }
