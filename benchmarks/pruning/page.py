"""The tables of docs/pruning.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.common import Check, markdown_table
from benchmarks.pruning.candidates import CANDIDATES, DENSITY, SHARES

__all__ = ["accuracy_checks", "accuracy_tables", "speed_checks", "speed_tables"]

Record = Mapping[str, Any]
LEAST_RECOVERY, RECOVERY_SHARE = 0.99, 0.25
LEAST_OVER_RANDOM, RANDOM_SHARE = 1.0, 0.5
LEAST_FALL = 0.8  # of the share that is dropped


def accuracy_tables(records: Sequence[Record]) -> str:
    """Return one table for each condition: recovery by way to choose and share."""
    return "\n\n".join(
        _condition(name, [one for one in records if one["condition"] == name])
        for name in dict.fromkeys(one["condition"] for one in records)
    )


def _condition(name: str, records: Sequence[Record]) -> str:
    whole = next(one for one in records if one["selector"] is None)
    head = [f"{name} rows, recovery in %", *(f"{share:g} dropped" for share in SHARES)]
    rows = [
        [
            selector,
            *(_percent(_found(records, selector, share)["recovery"]) for share in SHARES),
        ]
        for selector in CANDIDATES
    ]
    over = [
        "density over random, points",
        *(_signed(_found(records, DENSITY, share)["over_random"]) for share in SHARES),
    ]
    score = f"Whole prompts score {_interval(whole['score'])} points on {name} rows."
    return f"{score}\n\n{markdown_table(head, [*rows, over], right=range(1, len(head)))}"


def speed_tables(record: Record) -> str:
    """Return times and memory over the share, and what the choice itself costs."""
    times = record["times"]
    rows = []
    for share in (0.0, *SHARES):
        one = times[f"{DENSITY} {share:g}"]
        rows.append(
            [
                f"{share:g}",
                f"{median(one['prefill_ms']):,.0f} ms",
                _fall(one["prefill_ratio"]),
                f"{median(one['ttft_ms']):,.0f} ms",
                _fall(one["ttft_ratio"]),
                _fall(one["cpu_ratio"]),
                f"{max(one['peak_bytes']) / 1e6:,.0f} MB",
            ]
        )
    head = ["dropped", "prefill", "falls by", "first token", "falls by", "its CPU time", "memory"]
    costs = [
        [name.rpartition(" ")[0], f"{median(one['pruning_ms']):.1f} ms"]
        for name, one in times.items()
        if name.endswith(" 0.5")
    ]
    turns = f"{record['precision']}, {record['threads']} thread(s), medians of {record['rounds']} turn(s)."
    return "\n\n".join(
        [
            turns,
            markdown_table(head, rows, right=range(1, len(head))),
            markdown_table(["choice of half of the tokens", "takes"], costs, right=[1]),
        ]
    )


def accuracy_checks(records: Sequence[Record]) -> list[Check]:
    """Return the bounds on answers."""
    checks = []
    for name in dict.fromkeys(one["condition"] for one in records):
        own = [one for one in records if one["condition"] == name]
        recovery = _found(own, DENSITY, RECOVERY_SHARE)["recovery"]
        over = _found(own, DENSITY, RANDOM_SHARE)["over_random"]
        checks += [
            Check(
                name=f"recovery on {name} rows without {RECOVERY_SHARE:g} of the tokens",
                value=None if recovery is None else recovery["value"],
                minimum=LEAST_RECOVERY,
            ),
            Check(
                name=f"points over random on {name} rows without {RANDOM_SHARE:g}",
                value=over["value"],
                minimum=LEAST_OVER_RANDOM,
            ),
        ]
    return checks


def speed_checks(record: Record) -> list[Check]:
    """Return the bounds on the time of the prefill."""
    return [
        Check(
            name=f"fall of the prefill over the share, {share:g} dropped",
            value=(1 - record["times"][f"{DENSITY} {share:g}"]["prefill_ratio"]["value"]) / share,
            minimum=LEAST_FALL,
        )
        for share in SHARES
    ]


def _found(records: Sequence[Record], selector: str, share: float) -> Record:
    return next(one for one in records if one["selector"] == selector and one["share"] == share)


def _percent(found: Record | None) -> str:
    if found is None:
        return "–"
    value, low, high = (100 * found[name] for name in ("value", "low", "high"))
    return f"{value:.1f} ({low:.1f}–{high:.1f})"


def _interval(found: Record) -> str:
    return f"{found['value']:.1f} ({found['low']:.1f}–{found['high']:.1f})"


def _signed(found: Record) -> str:
    return f"{found['value']:+.1f} ({found['low']:+.1f} to {found['high']:+.1f})"


def _fall(found: Record | None) -> str:
    if found is None:
        return "–"
    value, low, high = (100 * (1 - found[name]) for name in ("value", "high", "low"))
    return "" if value == 0 else f"{value:.0f} % ({low:.0f}–{high:.0f})"
