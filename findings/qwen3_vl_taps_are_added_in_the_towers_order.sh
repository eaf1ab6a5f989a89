#!/usr/bin/env bash
# transformers 5.23.0: Qwen3-VL's deepstack_visual_indexes choose a merger by their order, and a decoder layer by their size.
#
# Expected: of deepstack_visual_indexes [2, 0] the first entry is level 0: block 2, merger 0, added behind decoder layer 0.
# Seen:     block 2 goes through merger 0, as the list says, and is level 1 all the same: levels are collected as the tower's blocks pass.
#           Code that takes level i for entry i is right for every published config, whose lists are sorted, and wrong for this one.
# Output seen:
#   block 0: merger 1, level 0
#   block 2: merger 0, level 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0
env/bin/pip install --quiet transformers==5.23.0
cat > probe.py <<'PY'
import torch
from transformers import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

torch.manual_seed(0)
config = Qwen3VLVisionConfig(
    depth=3, hidden_size=16, intermediate_size=32, num_heads=2, patch_size=4, out_hidden_size=24,
    num_position_embeddings=16, deepstack_visual_indexes=[2, 0],
)  # fmt: skip
tower = Qwen3VLVisionModel(config).eval()
blocks, mergers = {}, {}
for index, block in enumerate(tower.blocks):
    block.register_forward_hook(lambda module, given, out, index=index: blocks.update({index: out}))
for index, merger in enumerate(tower.deepstack_merger_list):
    merger.register_forward_hook(lambda module, given, out, index=index: mergers.update({index: (given[0], out)}))
with torch.no_grad():
    levels = tower(torch.randn(16, 96), torch.tensor([[1, 4, 4]]), return_dict=True).deepstack_features
found = {}
for merger, (taken, given) in mergers.items():
    (block,) = [index for index, out in blocks.items() if torch.equal(out, taken)]
    (level,) = [index for index, feature in enumerate(levels) if torch.equal(feature, given)]
    found[block] = (merger, level)
for block in sorted(found):
    print("block {}: merger {}, level {}".format(block, *found[block]))
assert found == {0: (1, 0), 2: (0, 1)}
PY
env/bin/python probe.py 2> noise.txt || { cat noise.txt; exit 1; }
