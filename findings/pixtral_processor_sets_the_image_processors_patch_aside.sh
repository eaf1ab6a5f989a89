#!/usr/bin/env bash
# transformers 5.23.0: Mistral 3's processor makes other pictures than its own image processor does.
#
# Expected: processor(images=picture) gives the pixels of processor.image_processor(picture), and a patch_size in the call is used.
# Seen:     the processor's call sets patch_size of the image processor to its own patch_size × spatial_merge_size, whatever its file or
#           the call says: 28 in place of 14 for Mistral Small 3.1. A picture that was prepared by the image processor alone may have
#           an odd number of patches; the merger of the model drops the last row or column then.
# Output seen:
#   image processor alone: 490 x 644
#   in its processor:      504 x 644
#   with patch_size=14:    504 x 644
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0
env/bin/pip install --quiet transformers==5.23.0 pillow==13.0.0
cat > probe.py <<'PY'
import sys
from importlib import import_module

from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

# The class asks for torchvision, for one function that the Pillow backend's module has too.
package = "transformers.models.pixtral"
pillow = import_module(f"{package}.image_processing_pil_pixtral")
sys.modules[f"{package}.image_processing_pixtral"] = pillow
PixtralProcessor = import_module(f"{package}.processing_pixtral").PixtralProcessor

words = ["<pad>", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>"))
core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
core.add_special_tokens(words)
images = pillow.PixtralImageProcessorPil(patch_size={"height": 14, "width": 14}, size={"longest_edge": 1540})
PixtralProcessor.check_argument_for_proper_class = lambda self, name, argument: None  # the Pillow class in its place
processor = PixtralProcessor(
    images, PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>"), patch_size=14, spatial_merge_size=2
)
picture = Image.new("RGB", (640, 480))


def size(name, inputs):
    found = tuple(map(int, inputs["image_sizes"][0]))
    print(f"{name:23}{found[0]} x {found[1]}")
    return found


alone = size("image processor alone:", images(picture))
whole = size("in its processor:", processor(images=picture, text="[IMG]"))
asked = size("with patch_size=14:", processor(images=picture, text="[IMG]", images_kwargs={"patch_size": 14}))
assert (alone, whole, asked) == ((490, 644), (504, 644), (504, 644))
PY
env/bin/python probe.py 2> noise.txt || { cat noise.txt; exit 1; }
