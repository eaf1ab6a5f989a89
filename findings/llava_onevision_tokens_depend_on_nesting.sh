#!/usr/bin/env bash
# transformers 5.23.0: LLaVA-OneVision's processor makes other tokens of the same two pictures and prompt, as the list is nested or not.
#
# Expected: `processor(images=[a, b], text=prompt)` and `processor(images=[[a, b]], text=prompt)` are one prompt with two images, as
#           for other models; `apply_chat_template(..., tokenize=True)` makes the second of it.
# Seen:     the flat list stands for two prompts of one image each: both pictures are cut into tiles, and the one prompt that has both
#           gets 5,858 image tokens. The nested list pads each to one square of 730 tokens, as the model was trained on several images.
#           Both run without a word, in `generate` too, and answer differently.
# Output seen:
#   flat: 5858 image tokens, pixel_values (2, 5, 3, 384, 384)
#   nested: 1460 image tokens, pixel_values (2, 1, 3, 384, 384)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet transformers==5.23.0 pillow==13.0.0 numpy==2.3.5 2> pip.txt
cat > probe.py <<'PY'
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlavaOnevisionProcessor, PreTrainedTokenizerFast
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)

core = Tokenizer(models.WordLevel({"<pad>": 0, "<image>": 1, "<video>": 2, "what?": 3}, unk_token="<pad>"))
core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
core.add_special_tokens(["<pad>", "<image>", "<video>"])
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>")
LlavaOnevisionProcessor.check_argument_for_proper_class = lambda self, name, argument: None  # no video part here
processor = LlavaOnevisionProcessor(
    LlavaOnevisionImageProcessorPil(), tokenizer, num_image_tokens=729, vision_feature_select_strategy="full"
)
pictures = [Image.new("RGB", (640, 480), "red"), Image.new("RGB", (640, 480), "blue")]


def seen(name, images):
    inputs = processor(images=images, text="<image> <image> what?", return_tensors="np")
    count = int((inputs["input_ids"] == 1).sum())
    print(f"{name}: {count} image tokens, pixel_values {inputs['pixel_values'].shape}")
    return count


assert (seen("flat", pictures), seen("nested", [pictures])) == (5858, 1460)
PY
env/bin/python probe.py 2> noise.txt || { cat noise.txt; exit 1; }
