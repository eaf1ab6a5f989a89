#!/usr/bin/env bash
# pytest-xdist 3.8.0: `--dist loadfile` starts files by their number of tests, so the file with one long test starts last, alone.
#
# Expected: files go to the processes in the order in which they are collected, so a name that comes first starts a long test early.
# Seen:     `--loadscope-reorder` is on by default and counts for `loadfile` too. The longest end-to-end tests are few to a file: they come
#           last, and the other process is idle meanwhile. `--no-loadscope-reorder` keeps the order of collection; a scheduler of one's own
#           (the hook `pytest_xdist_make_scheduler`) starts the longest first.
# Output seen (Python 3.11):
#   pytest-xdist 3.8.0
#   default: test_1_long.py starts as number 5 of 5
#   --no-loadscope-reorder: test_1_long.py starts as number 1 of 5
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet pytest==9.0.2 pytest-xdist==3.8.0
echo "pytest-xdist $(env/bin/python -c 'from importlib.metadata import version; print(version("pytest-xdist"))')"
cat > conftest.py <<'P'
import os, time
def pytest_runtest_setup(item):
    with open(os.environ["STARTS"], "a") as log:
        log.write(f"{time.monotonic():020.6f} {item.path.name}\n")
P
echo 'import time
def test_long(): time.sleep(3)' > test_1_long.py
for at in 2 3 4 5; do
  echo 'import pytest, time
@pytest.mark.parametrize("at", range(20))
def test_short(at): time.sleep(0.02)' > "test_${at}_short.py"
done
place() {
  STARTS="$work/starts" env/bin/python -m pytest -q -p no:cacheprovider -n 2 --dist loadfile "$@" > /dev/null
  sort "$work/starts" | cut -d' ' -f2 | awk '!seen[$0]++' | grep -n test_1_long | cut -d: -f1
  rm "$work/starts"
}
default=$(place); kept=$(place --no-loadscope-reorder)
echo "default: test_1_long.py starts as number $default of 5"
echo "--no-loadscope-reorder: test_1_long.py starts as number $kept of 5"
[ "$default" -ge 4 ] && [ "$kept" -le 2 ] || { echo "the order is another one: the behaviour has changed"; exit 1; }
