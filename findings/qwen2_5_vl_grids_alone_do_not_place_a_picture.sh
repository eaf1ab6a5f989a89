#!/usr/bin/env bash
# transformers 5.23.0: Qwen2.5-VL numbers the tokens of a picture as text where mm_token_type_ids are left out, without a word.
#
# Expected: input_ids hold the image tokens and image_grid_thw their rows and columns: the positions on three axes follow from both, as
#           in transformers 4; or the forward says what it lacks, as Qwen2-VL's of the same release does (ValueError).
# Seen:     the model takes the positions of plain text. Features are in place, shapes fit, nothing is logged, and the logits are those
#           of other positions. Code that passes on what a processor of version 4 made runs so. Pass mm_token_type_ids.
# Output seen:
#   with mm_token_type_ids: positions up to 9
#   without:                positions of text, up to 21; logits differ by 2.1 of 3.8
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0
env/bin/pip install --quiet transformers==5.23.0
cat > probe.py <<'PY'
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

torch.manual_seed(0)
rotary = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
config = Qwen2_5_VLConfig(
    vision_config={
        "depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 4,
        "out_hidden_size": 32, "window_size": 16, "fullatt_block_indexes": [0],
    },
    text_config={
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 64, "rope_parameters": rotary, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0,
    },
    image_token_id=3, video_token_id=4, vision_start_token_id=5, vision_end_token_id=6,
)  # fmt: skip
model = Qwen2_5_VLForConditionalGeneration(config).eval()
with torch.no_grad():
    for parameter in model.parameters():
        parameter += 0.3 * torch.randn(parameter.shape)
ids = torch.tensor([[7, 8, 5, *[3] * 16, 6, 9, 10]])
vision = {"pixel_values": torch.randn(64, 96), "image_grid_thw": torch.tensor([[1, 8, 8]])}
seen = []
model.model.language_model.rotary_emb.register_forward_pre_hook(
    lambda module, given: seen.append(int(given[1].max()))
)
with torch.no_grad():
    right = model(input_ids=ids, mm_token_type_ids=(ids == 3).long(), **vision).logits[0, -1]
    model.model.rope_deltas = None
    wrong = model(input_ids=ids, **vision).logits[0, -1]
off, scale = (right - wrong).abs().max().item(), right.abs().max().item()
print(f"with mm_token_type_ids: positions up to {seen[0]}")
print(f"without:                positions of text, up to {seen[1]}; logits differ by {off:.1f} of {scale:.1f}")
assert seen[1] == ids.shape[1] - 1 > seen[0] and off > 0.1 * scale
PY
env/bin/python probe.py 2> noise.txt || { cat noise.txt; exit 1; }
