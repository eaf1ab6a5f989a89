"""Which tests share a process under `pytest -n 2 --dist loadfile`, and in which order they start.

A file's tests stay in one process, so that what they share is made once. So do the files of a folder that share what is slow to
make. The longest start first: one that starts last leaves the other process idle.
"""

from __future__ import annotations

from typing import Any

__all__ = ["make_scheduler", "scope_of", "seconds_of"]

TOGETHER = ("tests/unit/families",)
"""Folders whose files share a fixture of the session: here one that traces a family at a time."""

SECONDS = {
    "tests/unit/families": 450,
    "tests/e2e/test_readme_runs.py": 150,
    "tests/e2e/test_arm64.py": 90,
    "tests/faults/test_faults.py": 90,
    "tests/unit/export/test_stamping.py": 60,
    "tests/unit/export/test_calibrated_export.py": 60,
    "tests/e2e/test_serve.py": 60,
    "tests/e2e/test_temporary_folders.py": 50,
    "tests/unit/tuning/test_tune.py": 50,
    "tests/e2e/test_traces.py": 45,
    "tests/e2e/test_base_install.py": 40,
    "tests/e2e/test_current_folder.py": 35,
    "tests/fuzz/test_slice.py": 30,
    "tests/unit/export/test_parity_mutants.py": 25,
    "tests/e2e/test_int4_methods.py": 20,
    "tests/e2e/test_calibrated_export.py": 20,
    "tests/e2e/test_optimum.py": 20,
    "tests/e2e/test_mixed_precision.py": 15,
    "tests/e2e/test_exporters.py": 15,
}
"""About what the longest take on one core."""

_SECONDS_OF_A_TEST = 0.3


def scope_of(nodeid: str) -> str:
    """Return what a test shares its process with: its file, or a folder of `TOGETHER`."""
    file = nodeid.partition("::")[0]
    return next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)


def seconds_of(scope: str, tests: int) -> float:
    """Return about how long a scope takes on one core."""
    return SECONDS.get(scope, _SECONDS_OF_A_TEST * tests)


def make_scheduler(config: Any, log: Any) -> Any:
    """Return the scheduler of pytest-xdist (3.8) with these scopes in this order."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

        def _assign_work_unit(self, node: Any) -> None:
            queue = self.workqueue
            longest = max(queue, key=lambda scope: seconds_of(scope, len(queue[scope])))
            queue.move_to_end(longest, last=False)
            super()._assign_work_unit(node)

    return Scheduling(config, log)
