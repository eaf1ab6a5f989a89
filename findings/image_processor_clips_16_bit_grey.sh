#!/usr/bin/env bash
# transformers 5.23.0 with Pillow 13.0.0: a 16-bit grey PNG, as depth, thermal and medical cameras write them, reaches the model almost white.
#
# Expected: an image processor that converts to RGB scales 16 bits to 8, so that a ramp from black to white stays one.
# Seen:     the conversion is Pillow's, which clips: every value above 255 of 65,535 becomes 255. Of a ramp over the whole
#           range 255 of 256 columns are pure white. Nothing is raised or logged, and the model answers about a blank picture.
#           Dividing by 257 before the conversion gives the ramp.
# Output seen:
#   I;16 as it is: 255 of 256 columns white; divided by 257: 1 of 256
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet transformers==5.23.0 pillow==13.0.0 numpy==2.3.5 2> pip.txt
cat > probe.py <<'PY'
import numpy as np
from PIL import Image
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

ramp = np.tile((np.arange(256) * 257).astype(np.uint16), (256, 1))  # 0 to 65,535
Image.fromarray(ramp).save("ramp.png")
picture = Image.open("ramp.png")
assert picture.mode == "I;16", picture.mode
processor = SiglipImageProcessorPil(
    do_resize=False, do_rescale=False, do_normalize=False, do_convert_rgb=True
)


def white_columns(image):
    pixels = np.asarray(processor(image, return_tensors="np")["pixel_values"])[0]
    return int((pixels == 255).all(axis=(0, 1)).sum())


clipped = white_columns(picture)
scaled = white_columns(Image.fromarray((ramp // 257).astype(np.uint8)))
print(f"I;16 as it is: {clipped} of 256 columns white; divided by 257: {scaled} of 256")
assert (clipped, scaled) == (255, 1)
PY
env/bin/python probe.py 2> noise.txt || { cat noise.txt; exit 1; }
