#!/usr/bin/env bash
# torch 2.13.0, onnxscript 0.7.2: every torch.onnx.export builds the table of all operators anew.
#
# Expected: the table is the same for every export of a process, so a second export of a module without operators costs nothing.
# Seen:     each call reads the sources of some 1,500 functions again, 0.3 to 0.8 s, about half the time of a small graph. There is
#           no argument for a table: custom_translation_table only adds to the one that is built.
# Output seen:
#   tables built: 3; the third took as long as a table takes: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 onnxscript==0.7.2
cat > probe.py <<'PY'
import time

import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

build, spent = ONNXRegistry.from_torchlib, []


def timed(*args, **kwargs):
    start = time.process_time()
    table = build(*args, **kwargs)
    spent.append(time.process_time() - start)
    return table


ONNXRegistry.from_torchlib = classmethod(lambda cls, **given: timed(**given))
program = torch.export.export(torch.nn.Identity(), (torch.ones(2),), strict=False)
for _ in range(3):
    torch.onnx.export(program, (), dynamo=True, optimize=False, verbose=False)
print(f"tables built: {len(spent)}; the third took as long as a table takes: {spent[2] > 0.1}")
assert len(spent) == 3 and spent[2] > 0.1
PY
env/bin/python probe.py 2> noise.txt || { cat noise.txt; exit 1; }
