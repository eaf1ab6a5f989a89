#!/usr/bin/env bash
# pip 26.3: `--python-version` chooses wheels for another Python, and evaluates conditions of requirements for the one that runs pip.
#
# Expected: with `--python-version 3.10`, the requirement `x<13; python_version < "3.11"` holds and `x==13.4.4; python_version >= "3.11"` does not:
#           wheels for a board that are fetched on a workstation are those that pip installs on the board.
# Seen:     on Python 3.11 or later the second one holds, and cuda-bindings 13 is taken for Python 3.10, in the form of its cp310 wheel.
#           The environment is whole, installs, and does not fit the board's driver. `--platform` is the same: `platform_machine` is the host's.
# Output seen (Python 3.11):
#   pip 26.3
#   asked for Python 3.10: cuda_bindings-13.4.4-cp310-cp310-manylinux_2_24_aarch64.manylinux_2_28_aarch64.whl
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet pip==26.3
env/bin/pip --version | cut -d" " -f1,2
cat > requirements.txt <<'TXT'
cuda-bindings>=12.8,<13; python_version < "3.11"
cuda-bindings==13.4.4; python_version >= "3.11"
TXT
env/bin/pip download --quiet --no-deps --only-binary=:all: --python-version 3.10 --implementation cp \
  --platform manylinux_2_28_aarch64 --platform manylinux_2_24_aarch64 --platform manylinux2014_aarch64 -r requirements.txt -d wheels
for wheel in wheels/*.whl; do echo "asked for Python 3.10: ${wheel##*/}"; done
# The one wheel is the one whose condition holds for the Python that runs pip, in its form for the Python that was asked for.
[ "$(ls wheels | wc -l)" = 1 ]
ls wheels | grep -q '^cuda_bindings-13\.4\.4-cp310-' || { echo "pip took another one: the behaviour has changed"; exit 1; }
