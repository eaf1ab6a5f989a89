#!/usr/bin/env bash
# numpy 2.4.6: powers of float32 have other bits on a processor with AVX-512 than on one without.
#
# Expected: one wheel gives one result; np.power in float32 is the float64 power rounded, as it is nearly everywhere without AVX-512.
# Seen:     with AVX-512 a fifth of the powers is one unit in the last place off. Rotary frequencies are such powers: at position 100
#           the angle is 3e-6 off, at 100,000 it is 3e-3. Tables that a device computes are not those of the machine that tested it.
#           The float64 power rounded to float32 is the same everywhere. (On a processor without AVX-512 this script cannot show it.)
# Output seen:
#   AVX-512:     20.09 % of powers differ from the rounded float64 power, 4 of 32 rotary frequencies
#   without it:  0.04 % of powers differ from the rounded float64 power, 0 of 32 rotary frequencies
set -euo pipefail
grep -qw avx512f /proc/cpuinfo || { echo "this processor has no AVX-512"; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet numpy==2.4.6
cat > probe.py <<'PY'
import sys

import numpy as np


def differ(exponents):
    found = np.power(np.float32(10_000), exponents)
    return found != np.power(10_000.0, exponents.astype(np.float64)).astype(np.float32)


share = differ(np.linspace(0, 1, 10_001, dtype=np.float32)).mean()
rotary = differ(np.arange(0, 64, 2, dtype=np.float32) / np.float32(64)).sum()
print(f"{sys.argv[1]:12} {share:.2%} of powers differ from the rounded float64 power, {rotary} of 32 rotary frequencies".replace("%", " %"))
assert (share > 0.1) == (rotary > 0) == (sys.argv[1] == "AVX-512:")
PY
env/bin/python probe.py AVX-512:
NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL" env/bin/python probe.py "without it:" 2> noise.txt || { cat noise.txt; exit 1; }
