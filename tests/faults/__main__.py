"""`python -m tests.faults`: ends every writer at every step, prints one JSON line per trial, and exits with 1 after a fault."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faults.sweep import WAYS, Sweep
from tests.faults.writers import WRITERS


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.faults", description=__doc__)
    parser.add_argument("--writers", nargs="+", choices=[*WRITERS], default=[*WRITERS])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    parser.add_argument("--cases", type=int, help="of each writer and way; all without it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="print sound trials too")
    options = parser.parse_args()
    found: Counter[str] = Counter()
    for writer in options.writers:
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            sweep = Sweep(writer, Path(folder))
            for way in options.ways:
                started = time.perf_counter()
                count = 0
                for trial in sweep.trials(way, options.cases, options.seed):
                    count += 1
                    found["fault" if trial.fault else "sound"] += 1
                    if trial.fault or options.all:
                        print(json.dumps(trial.record()), flush=True)  # noqa: T201
                seconds = time.perf_counter() - started
                print(f"{writer} {way}: {count} trials, {seconds:.0f} s", file=sys.stderr)  # noqa: T201
    print(f"{found['sound']} sound, {found['fault']} faults", file=sys.stderr)  # noqa: T201
    return int(found["fault"] > 0)


if __name__ == "__main__":
    sys.exit(main())
