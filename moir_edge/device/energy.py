"""Energy of a stretch of time, from the power of the whole board, sampled beside the work."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from types import TracebackType

from moir_edge.device.sensors import find_rails, read_rails, total_power
from moir_edge.device.system import System

__all__ = ["EnergyMeter"]

_PERIOD_S = 0.02  # a board's monitor averages over some milliseconds; a read takes under one


class EnergyMeter:
    """Samples a board's power in a thread, between the start and the end of a `with` block.

    Args:
        power: Gives the power now in W, None where there is not a sensor; that of this board by default.
        clock: Gives the time in s.
        period_s: Time between two samples.
    """

    def __init__(
        self,
        power: Callable[[], float | None] | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        period_s: float = _PERIOD_S,
    ) -> None:
        self._power = power or _board_power(System())
        self._clock = clock
        self._period_s = period_s
        self._times: list[float] = []
        self._joules: list[float] = []  # since the first sample
        self._watts = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def available(self) -> bool:
        """Whether there is a sensor."""
        return bool(self._times)

    def __enter__(self) -> EnergyMeter:
        """Start to sample, where there is a sensor."""
        self.sample()
        if self.available:
            self._thread = threading.Thread(target=self._run, name="energy", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop to sample."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def now(self) -> float:
        """Return the time by which stretches are named, s."""
        return self._clock()

    def joules(self, start: float, end: float) -> float | None:
        """Return the energy of a stretch of time in J, idle power included; None where there is not a sensor.

        Args:
            start: As `now` gave it.
            end: Likewise; after the last sample its power counts on.
        """
        if not self.available:
            return None
        return self._until(end) - self._until(start)

    def sample(self) -> None:
        """Take one sample; the block does that by itself."""
        watts = self._power()
        if watts is None:
            return
        at = self._clock()
        before = self._joules[-1] if self._joules else 0.0
        passed = at - self._times[-1] if self._times else 0.0
        # Both lists grow at their ends alone, the times last: a reader sees no time without its energy.
        self._joules.append(before + passed * (watts + self._watts) / 2)
        self._watts = watts
        self._times.append(at)

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            self.sample()

    def _until(self, at: float) -> float:
        """Return the energy from the first sample to a time."""
        after = bisect_left(self._times, at)
        if after == 0:
            return 0.0
        last = self._times[after - 1]
        if after == len(self._times):
            return self._joules[after - 1] + (at - last) * self._watts
        share = (at - last) / (self._times[after] - last)
        return self._joules[after - 1] + share * (self._joules[after] - self._joules[after - 1])


def _board_power(system: System) -> Callable[[], float | None]:
    """Return a function that reads the rails which are there now."""
    rails = find_rails(system)
    return lambda: total_power(read_rails(system, rails))
