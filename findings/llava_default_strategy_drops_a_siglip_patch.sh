#!/usr/bin/env bash
# transformers 5.23.0: LlavaConfig's default strategy drops a patch of the picture where the vision tower has no class token.
#
# Expected: "default" leaves out the class token of a CLIP tower. A SigLIP tower has none, so all of its patches reach the language
#           model, or the configuration is refused.
# Seen:     the first row is dropped whichever tower gave it. Of a SigLIP tower that is the patch at the top left: what the picture
#           shows there changes no image feature. "full" keeps it. A LlavaConfig with a SigLIP tower and no strategy has "default".
# Output seen:
#   default: 15 features of 16 patches; another top left patch changes them: False
#   full: 16 features of 16 patches; another top left patch changes them: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0
env/bin/pip install --quiet transformers==5.23.0
cat > probe.py <<'PY'
import torch
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
config = LlavaConfig(
    vision_config=SiglipVisionConfig(**sizes, image_size=32, patch_size=8),
    text_config=LlamaConfig(**sizes, vocab_size=64),
    image_token_index=63,
)
assert config.vision_feature_select_strategy == "default"
# Features come from the layer before the last: with one layer, from before attention mixes the patches.
assert config.vision_feature_layer == -2
torch.manual_seed(0)
model = LlavaForConditionalGeneration(config).eval()
picture = torch.rand(1, 3, 32, 32)
other = picture.clone()
other[:, :, :8, :8] = 0


def features(pixels, strategy):
    with torch.no_grad():
        found = model.get_image_features(pixel_values=pixels, vision_feature_select_strategy=strategy)
    return found.pooler_output[0]


for strategy, count in (("default", 15), ("full", 16)):
    first, second = features(picture, strategy), features(other, strategy)
    changed = not torch.equal(first, second)
    print(f"{strategy}: {len(first)} features of 16 patches; another top left patch changes them: {changed}")
    assert len(first) == count
    assert changed is (strategy == "full")
PY
env/bin/python probe.py 2> noise.txt || { cat noise.txt; exit 1; }
