"""Records that the reports of `compare` and `bench` share: raw samples, the cost of the router, gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from moir_edge.metrics.records import Interval, Record

__all__ = ["GateResult", "RouterOverhead", "Samples"]

Unit = Literal["ms", "tokens/s", "J"]


class Samples(Record):
    """Raw samples in the order of measurement, and the percentiles derived from them."""

    unit: Unit
    median: float
    p10: float
    p90: float
    p99: float
    mean: float
    samples: tuple[float, ...]

    @classmethod
    def of(cls, samples: Sequence[float], unit: Unit) -> Samples:
        """Derive the percentiles.

        Args:
            samples: At least one.
            unit: Unit of every sample.

        Raises:
            ValueError: There is no sample.
        """
        if not samples:
            raise ValueError("Samples needs at least one sample")
        values = [float(value) for value in samples]
        p10, median, p90, p99 = (float(q) for q in np.percentile(values, [10, 50, 90, 99]))
        return cls(
            unit=unit,
            median=median,
            p10=p10,
            p90=p90,
            p99=p99,
            mean=float(np.mean(values)),
            samples=tuple(values),
        )


class RouterOverhead(Record):
    """Time to first token with the router on against off, taken in turns on the same rows.

    Attributes:
        on: TTFT with the router.
        off: TTFT without, sample i next to sample i of `on`.
        overhead: Median of the paired differences over the median of `off`, a share.
        component_share: Time inside the router over TTFT, median; None where it is not timed apart.
    """

    on: Samples
    off: Samples
    overhead: Interval
    component_share: float | None


class GateResult(Record):
    """One bound on one candidate.

    Attributes:
        value: None where it could not be measured, which fails the gate; `reason` says why where there is more to say.
        low: Lower end of the 95 % interval that decided; None where the value alone did.
        high: Its upper end.
        outcome: `undecided` where the interval holds the bound. Only `passed` is a pass.
        counted: What the interval was taken from: `pairs` of times, or `rows`.
        more: Undecided: about how many more of them would decide; None where no number would.
        more_rounds: The same in rounds over the timed rows.
    """

    candidate: str
    figure: str
    value: float | None
    low: float | None = None
    high: float | None = None
    bound: float
    relation: Literal[">=", "<="]
    unit: str
    outcome: Literal["passed", "failed", "undecided"]
    reason: str | None = None
    counted: Literal["pairs", "rows"] | None = None
    more: int | None = None
    more_rounds: int | None = None

    @property
    def passed(self) -> bool:
        """Whether the bound is kept, for certain where there is an interval."""
        return self.outcome == "passed"

    def value_text(self) -> str:
        """Return the value with its unit and interval; a pure number, which may be near 0 or 1, with more digits."""
        if self.value is None:
            return self.reason or "not measured"
        if self.low is None or self.high is None:
            return self._number(self.value) + self.unit
        ends = " to ".join(self._number(end) for end in (self.low, self.high))
        return f"{self._number(self.value)}{self.unit} ({ends})"

    def more_text(self) -> str:
        """Return what would decide an undecided gate; empty for the others."""
        if self.outcome != "undecided":
            return ""
        if self.more is None:
            return f"no number of {self.counted} decides: the value lies at the bound"
        counted = (self.counted or "")[: -1 if self.more == 1 else None]
        rounds = ""
        if self.more_rounds is not None:
            rounds = f" ({self.more_rounds} more round{'' if self.more_rounds == 1 else 's'})"
        return f"about {self.more} more {counted}{rounds} would decide"

    def sentence(self) -> str:
        """Return the result as one line for people."""
        verdict = "passed" if self.passed else self.outcome.upper()
        bound = f"bound {self.relation} {self.bound:g}{self.unit}"
        more = f"; {self.more_text()}" if self.more_text() else ""
        return f"{verdict}: {self.candidate} {self.figure} {self.value_text()}, {bound}{more}"

    def _number(self, value: float) -> str:
        return f"{value:.2f}" if self.unit else f"{value:.6g}"
