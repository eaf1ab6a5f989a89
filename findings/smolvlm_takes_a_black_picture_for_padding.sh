#!/usr/bin/env bash
# transformers 5.23.0: SmolVLM and Idefics3 drop a picture whose pixel values are all 0, although the mask says that it is there.
#
# Expected: pixel_attention_mask tells pictures from padding. A prompt of two pictures has the features of two.
# Seen:     a picture counts as padding where each of its values is 0, which a black one is with do_normalize=False. Its features are
#           missing, with pixel_attention_mask of ones too. Alone in a prompt the same picture is kept, and a value of 1e-6 keeps it.
#           With mean and std of 0.5, no 8-bit grey is 0. Keep normalization on where a picture may be black.
# Output seen:
#   two pictures, one almost black: features of [8]
#   two pictures, one black:        features of [4]
#   one picture, black:             features of [4]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0
env/bin/pip install --quiet transformers==5.23.0
cat > probe.py <<'PY'
import torch
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

torch.manual_seed(0)
small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
config = SmolVLMConfig(
    image_token_id=3,
    pad_token_id=0,
    scale_factor=2,
    text_config={**small, "model_type": "llama", "vocab_size": 64, "num_key_value_heads": 2},
    vision_config={**small, "image_size": 32, "patch_size": 8},
)
model = SmolVLMForConditionalGeneration(config).eval()


@torch.no_grad()
def features(*values):
    pictures = torch.stack([torch.full((3, 32, 32), value) for value in values])[None]
    mask = torch.ones(1, len(values), 32, 32, dtype=torch.bool)
    found = model.get_image_features(pixel_values=pictures, pixel_attention_mask=mask)
    return [len(one) for one in found.pooler_output]


almost, black, alone = features(0.5, 1e-6), features(0.5, 0.0), features(0.0)
print(f"two pictures, one almost black: features of {almost}")
print(f"two pictures, one black:        features of {black}")
print(f"one picture, black:             features of {alone}")
assert (almost, black, alone) == ([8], [4], [4])
PY
env/bin/python probe.py 2> noise.txt || { cat noise.txt; exit 1; }
