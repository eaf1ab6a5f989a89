#!/usr/bin/env bash
# numpy 2.4.6 (its OpenBLAS): where BLAS cannot start its threads, `import numpy` raises KeyboardInterrupt.
#
# Expected: fewer threads, an ImportError, or an OSError that says that a limit is reached.
# Seen:     four lines on standard error, and then the library sends its own process SIGINT. Python makes KeyboardInterrupt of it in
#           the middle of the import, which is no Exception: `except ImportError` and `except Exception` miss it, and a command line
#           reports that somebody pressed Ctrl-C. A process that ignores SIGINT is told nothing at all.
# Where:    containers with a small limit of processes, and limits of the address space with large stacks: a thread reserves its stack.
# Output seen:
#   OpenBLAS blas_thread_init: pthread_create failed for thread 1 of 2: Resource temporarily unavailable
#   import numpy: KeyboardInterrupt, an Exception: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet numpy==2.4.6
cat > probe.py <<'PY'
import os
import resource
import signal
import subprocess
import sys

IMPORT = """
try:
    import numpy
except BaseException as error:
    print(f"import numpy: {type(error).__name__}, an Exception: {isinstance(error, Exception)}")
else:
    print("import numpy: done")
"""
GIGABYTE = 1 << 30


def limit():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as in a terminal
    # A new thread reserves as much as the stack may grow to, which the address space does not hold twice.
    resource.setrlimit(resource.RLIMIT_STACK, (3 * GIGABYTE,) * 2)
    resource.setrlimit(resource.RLIMIT_AS, (2 * GIGABYTE,) * 2)


def run(threads):
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], preexec_fn=limit, capture_output=True, text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": str(threads)},
    )  # fmt: skip
    assert done.returncode == 0, done
    return done.stdout.strip(), done.stderr.strip().splitlines()


told, lines = run(2)
print(lines[0])
print(told)
assert told == "import numpy: KeyboardInterrupt, an Exception: False"
assert lines[0].startswith("OpenBLAS blas_thread_init: pthread_create failed for thread 1 of 2")
assert run(1) == ("import numpy: done", [])
PY
env/bin/python probe.py
