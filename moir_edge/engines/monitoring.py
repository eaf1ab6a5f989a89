"""TensorRT's tree of build phases as one number that never falls, and the way to stop a build."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["PROGRESS_STEPS", "StepCallback", "make_monitor"]

StepCallback = Callable[[int, int], None]

PROGRESS_STEPS = 100
"""The `total` that the progress callback gets."""


def make_monitor(trt: Any, callback: StepCallback | None) -> Any:
    """Return an `IProgressMonitor` that reports to a callback.

    Args:
        trt: Either module.
        callback: Called as ``callback(step, PROGRESS_STEPS)``; an error that it raises stops the build and stands
            in the monitor's ``failure`` then. ``finish()`` reports the last step.
    """
    phases = _Phases(callback)

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the module is untyped
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        @property
        def failure(self) -> BaseException | None:
            return phases.failure

        def finish(self) -> None:
            if callback is not None:
                callback(PROGRESS_STEPS, PROGRESS_STEPS)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            del parent_phase  # phases nest; the last one that is open is the parent
            phases.open(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return phases.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            phases.close(phase_name)

    return Monitor()


class _Phases:
    """The open phases, outermost first."""

    def __init__(self, callback: StepCallback | None) -> None:
        self.failure: BaseException | None = None
        self._callback = callback
        self._open: list[_Phase] = []
        self._reported = -1

    def open(self, name: str, steps: int) -> None:
        self._open.append(_Phase(name, max(1, steps)))

    def close(self, name: str) -> None:
        self._open = [phase for phase in self._open if phase.name != name]

    def step(self, name: str, step: int) -> bool:
        """Count one step; a False tells the builder to stop."""
        for phase in self._open:
            if phase.name == name:
                phase.done = step + 1
        return self._report()

    def _report(self) -> bool:
        step = int(PROGRESS_STEPS * self._fraction())
        if self._callback is None or step <= self._reported or self.failure is not None:
            return self.failure is None
        self._reported = step
        try:
            self._callback(step, PROGRESS_STEPS)
        except BaseException as error:  # must not cross the C++ builder; `build` raises it again
            self.failure = error
        return self.failure is None

    def _fraction(self) -> float:
        fraction = 0.0
        for phase in reversed(self._open):
            fraction = min(1.0, (phase.done + fraction) / phase.steps)
        return min(fraction, 0.99)


class _Phase:
    def __init__(self, name: str, steps: int) -> None:
        self.name, self.steps, self.done = name, steps, 0
