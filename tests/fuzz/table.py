"""What a run found: a table of areas, the kinds of faults, and the command that replays each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tests.fuzz.verdict import FAULTS, Verdict

__all__ = ["faults_text", "summary", "table_text"]

_SHOWN = 30  # kinds of faults

Results = Mapping[str, Sequence[Verdict]]


def summary(results: Results, seed: int) -> dict[str, Any]:
    """Return the figures of a run as plain JSON data."""
    areas = {name: _area(verdicts) for name, verdicts in results.items()}
    faults = [
        {"area": name, "index": verdict.index, "kind": verdict.kind, "recipe": verdict.recipe, "detail": verdict.detail}
        for name, verdicts in results.items()
        for verdict in verdicts
        if verdict.kind in FAULTS
    ]  # fmt: skip
    cases = sum(len(verdicts) for verdicts in results.values())
    return {"seed": seed, "cases": cases, "areas": areas, "faults": faults}


def _area(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    kinds = Counter(verdict.kind for verdict in verdicts)
    return {
        "cases": len(verdicts),
        "refused": kinds["refused"],
        "accepted": kinds["accepted"],
        "faults": sum(kinds[kind] for kind in FAULTS),
        "seconds": round(sum(verdict.seconds for verdict in verdicts), 1),
        "longest_seconds": max((verdict.seconds for verdict in verdicts), default=0.0),
        "most_megabytes": max((verdict.megabytes for verdict in verdicts), default=0.0),
    }


def table_text(figures: Mapping[str, Any]) -> str:
    """Return the table of areas."""
    heads = ("area", "cases", "refused", "accepted", "faults", "longest s", "most MB")
    rows = [heads]
    for name, area in figures["areas"].items():
        keys = (
            "cases",
            "refused",
            "accepted",
            "faults",
            "longest_seconds",
            "most_megabytes",
        )
        rows.append((name, *(f"{area[key]:.1f}" if "_" in key else str(area[key]) for key in keys)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    ]
    return "\n".join(lines)


def faults_text(figures: Mapping[str, Any]) -> str:
    """Return the faults, alike ones together, most frequent first, with the command that replays one of each."""
    alike: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for fault in figures["faults"]:
        cause = fault["detail"].split(": ")[0][:90]
        alike.setdefault((fault["area"], fault["kind"], cause), []).append(fault)
    lines = []
    for (area, kind, _), found in sorted(alike.items(), key=lambda one: -len(one[1]))[:_SHOWN]:
        first = found[0]
        lines.append(f"{len(found)} × {kind} in {area}: {first['detail'][:300]}")
        lines.append(f"    {first['recipe'][:160]}")
        lines.append(
            f"    python -m tests.fuzz --area {area} --seed {figures['seed']} --index {first['index']}"
        )
    if len(alike) > _SHOWN:
        lines.append(f"and {len(alike) - _SHOWN} more kinds; see --json")
    return "\n".join(lines)
