"""One fresh process that loads a bundle and answers questions about a picture; prints what that took, for `benchmarks.start`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

QUESTIONS = ("What is in the picture?", "How many?", "Which colour?", "What is it?")
SIDE = 512
NEW_TOKENS = 8
_STATUS = Path("/proc/self/status")


def main() -> int:
    """Answer, print one JSON object, and return the exit code; the words are the bundle and when the process was started."""
    bundle, started = sys.argv[1], float(sys.argv[2])
    import numpy as np
    from PIL import Image

    import moir_edge
    from moir_edge.finite import json_text
    from moir_edge.runtime.timing import peak_memory_bytes

    before = time.process_time()
    model = moir_edge.load(bundle, verify=False)
    loaded = time.process_time() - before
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    model.generate(QUESTIONS[0], images=[picture], max_new_tokens=1)
    first = time.time() - started
    for question in QUESTIONS:
        model.generate(question, images=[picture], max_new_tokens=NEW_TOKENS)
    own = next(line for line in _STATUS.read_text().splitlines() if line.startswith("RssAnon:"))
    record = {
        "first_token_s": first,
        "load_cpu_s": loaded,
        "own_bytes": int(own.split()[1]) * 1024,
        "peak_bytes": peak_memory_bytes(),
    }
    print(json_text(record, indent=None))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
