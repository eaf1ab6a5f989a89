"""Share the cases of a run out among processes, a few at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.fuzz.host import HANG_SECONDS
from tests.fuzz.verdict import Verdict

__all__ = ["run_jobs"]

# One thread each: a fork has only the thread that forked.
_SINGLE = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1"
)
_ENVIRONMENT = {
    **_SINGLE,
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
}


def run_jobs(
    cases: Mapping[str, Sequence[int]],
    *,
    seed: int,
    seeds: Path,
    jobs: int,
    keep: str | None = None,
    hang_seconds: float = HANG_SECONDS,
) -> dict[str, list[Verdict]]:
    """Run cases and return their verdicts by area, in order.

    Args:
        cases: The indices to run, by area.
        seed: Of the run.
        seeds: The folder of seeds.
        jobs: Processes at a time.
        keep: Where the input of a single case stays, or None.
        hang_seconds: What a case may take.
    """
    common = {
        "seed": seed,
        "seeds": str(seeds.resolve()),
        "keep": keep and str(Path(keep).resolve()),
        "hang_seconds": hang_seconds,
    }
    shards = [
        (name, indices[start::jobs])
        for name, indices in cases.items()
        for start in range(min(jobs, len(indices)))
    ]
    found: dict[str, list[Verdict]] = {name: [] for name in cases}
    with ThreadPoolExecutor(jobs) as pool:
        runs = [
            (name, pool.submit(_run_host, {**common, "area": name, "indices": list(indices)}))
            for name, indices in shards
        ]
        for name, run in runs:
            found[name] += run.result()
    for verdicts in found.values():
        verdicts.sort(key=lambda verdict: verdict.index)
    return found


def _run_host(job: dict[str, Any]) -> list[Verdict]:
    """Run a job in a process of its own; what it leaves undone comes as faults of the suite."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.host", json.dumps(job)],
        env={**os.environ, **_ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    verdicts = [Verdict(**json.loads(line)) for line in done.stdout.splitlines()]
    missing = set(job["indices"]) - {verdict.index for verdict in verdicts}
    reason = done.stderr.strip()[-1000:] or f"the process ended with {done.returncode}"
    return verdicts + [Verdict("suite", reason, index=index) for index in sorted(missing)]
