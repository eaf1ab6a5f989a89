#!/usr/bin/env bash
# transformers 5.23.0: Qwen2.5-VL answers a prompt of text otherwise once it has seen a picture, in a decode loop of one's own.
#
# Expected: a forward without a picture and with a cache of its own depends on its inputs alone.
# Seen:     the model keeps `rope_deltas` of the last picture. A prompt of text leaves them as they are, and each later forward with a
#           cache and without position_ids adds them: the tokens of the answer are numbered from before their prompt. generate()
#           sets them anew and is not affected. Qwen2-VL and Qwen3-VL share the code. Pass position_ids in every step.
# Output seen:
#   before a picture: [30, 23, 41, 3, 24, 46]
#   after a picture:  [30, 29, 52, 60, 23, 52], rope_deltas -12
#   generate():       [30, 23, 41, 3, 24, 46]
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
special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
config = Qwen2_5_VLConfig(
    vision_config={
        "depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 4,
        "out_hidden_size": 32, "window_size": 16, "fullatt_block_indexes": [0],
    },
    text_config={
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 64, "rope_parameters": rotary, **special,
    },
    image_token_id=3, video_token_id=4, vision_start_token_id=5, vision_end_token_id=6,
)  # fmt: skip
model = Qwen2_5_VLForConditionalGeneration(config).eval()
with torch.no_grad():
    for parameter in model.parameters():
        parameter += 0.3 * torch.randn(parameter.shape)
picture = torch.tensor([[7, 5, *[3] * 16, 6, 8, 9]])
vision = {
    "pixel_values": torch.randn(64, 96),
    "image_grid_thw": torch.tensor([[1, 8, 8]]),
    "mm_token_type_ids": (picture == 3).long(),
}
text = torch.tensor([[7, 8, 9, 10, 11, 12, 13, 14]])


@torch.no_grad()
def answer(ids, **inputs):
    found = []
    step = model(input_ids=ids, use_cache=True, **inputs)
    for _ in range(6):
        token = step.logits[:, -1:].argmax(-1)
        found.append(int(token))
        step = model(input_ids=token, past_key_values=step.past_key_values)
    return found


before = answer(text)
answer(picture, **vision)
after = answer(text)
kept = int(model.model.rope_deltas)
generated = model.generate(input_ids=text, max_new_tokens=6, do_sample=False)[0, 8:].tolist()
print(f"before a picture: {before}")
print(f"after a picture:  {after}, rope_deltas {kept}")
print(f"generate():       {generated}")
assert before == generated != after
PY
env/bin/python probe.py 2> noise.txt || { cat noise.txt; exit 1; }
