"""The measurements: latency in turns, router overhead in pairs, routing maps, and answers in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from moir_edge.data.answers import Answer, RoutingRow
from moir_edge.data.rows import Row
from moir_edge.device.energy import EnergyMeter
from moir_edge.evaluation.candidates import TimedAnswer
from moir_edge.evaluation.machine import BoardWatch, CpuTimes, describe_machine
from moir_edge.evaluation.process import Measured
from moir_edge.evaluation.provenance import Machine
from moir_edge.progress import Progress

__all__ = [
    "LatencyPlan",
    "OverheadPairs",
    "TimedCandidate",
    "batches",
    "latency_sample",
    "measure_answers",
    "measure_latency",
    "measure_overhead",
    "measure_routing",
    "measure_times",
]


@dataclass(frozen=True, kw_only=True)
class LatencyPlan:
    """Plan of the timed rows.

    Attributes:
        rows: Indices of the rows, a fair share of every task.
        repeats: Rounds over the rows.
        warm_up: Rows answered and thrown away before the first round.
        max_new_tokens: Longest answer, in tokens.
    """

    rows: tuple[int, ...]
    repeats: int
    warm_up: int
    max_new_tokens: int


@dataclass
class OverheadPairs:
    """Time to first token with the router on and off; entry i of both was taken on one row, one after the other."""

    on: list[TimedAnswer] = field(default_factory=list)
    off: list[TimedAnswer] = field(default_factory=list)


def latency_sample(rows: Sequence[Row], count: int) -> tuple[int, ...]:
    """Choose rows for timing: evenly spaced inside each task, the tasks in turn.

    Args:
        rows: All rows.
        count: How many to choose at most.

    Returns:
        Indices into `rows`.
    """
    by_task: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        by_task.setdefault(row.task, []).append(index)
    share = -(-count // len(by_task))
    spread = [_evenly(own, share) for own in by_task.values()]
    turns = [own[turn] for turn in range(share) for own in spread if turn < len(own)]
    return tuple(turns[:count])


def measure_latency(
    candidates: Sequence[Measured],
    plan: LatencyPlan,
    progress: Progress,
    meter: EnergyMeter | None = None,
) -> list[list[TimedAnswer]]:
    """Time every candidate on the same rows at batch 1, in turns, so that a disturbance hits all of them.

    Each row goes through all candidates before the next row; the starting candidate rotates. A meter, where there is a
    sensor, gives each answer the energy of the whole board while it was made.

    Returns:
        Per candidate, one answer per row and round, in order.
    """
    samples: list[list[TimedAnswer]] = [[] for _ in candidates]
    schedule = list(plan.rows) * plan.repeats
    progress("latency", 0, len(schedule))
    for candidate in candidates:
        for index in plan.rows[: plan.warm_up]:
            candidate.timed(index, router=True, max_new_tokens=plan.max_new_tokens)
    for turn, index in enumerate(schedule):
        for at in _rotated(len(candidates), turn):
            start = meter.now() if meter else 0.0
            timed = candidates[at].timed(index, router=True, max_new_tokens=plan.max_new_tokens)
            energy = meter.joules(start, meter.now()) if meter else None
            samples[at].append(replace(timed, energy_j=energy))
        progress("latency", turn + 1, len(schedule))
    return samples


def measure_overhead(
    candidates: Sequence[Measured], plan: LatencyPlan, progress: Progress
) -> list[OverheadPairs | None]:
    """Time the first token with the router on and off, in turns; which comes first changes from pair to pair.

    Returns:
        Per candidate its pairs, or None where it has no router.
    """
    pairs = [OverheadPairs() if one.loaded.facts.has_router else None for one in candidates]
    schedule = list(plan.rows) * plan.repeats
    progress("router on and off", 0, len(schedule))
    for turn, index in enumerate(schedule):
        for at in _rotated(len(candidates), turn):
            pair = pairs[at]
            if pair is None:
                continue
            for router in (True, False) if turn % 2 else (False, True):
                timed = candidates[at].timed(index, router=router, max_new_tokens=1)
                (pair.on if router else pair.off).append(timed)
        progress("router on and off", turn + 1, len(schedule))
    return pairs


@dataclass(frozen=True, kw_only=True)
class TimedCandidate:
    """Raw times of one candidate.

    Attributes:
        timed: Answers of the latency phase, one per row and round.
        overhead: Pairs with the router on and off; None without a router.
        peak_memory_bytes: Peak resident memory at the end of the latency phase.
    """

    timed: Sequence[TimedAnswer]
    overhead: OverheadPairs | None
    peak_memory_bytes: int


def measure_times(
    candidates: Sequence[Measured], plan: LatencyPlan, load_before: float, progress: Progress
) -> tuple[list[TimedCandidate], Machine]:
    """Time all candidates in turns; peak memory is read after that, before anything is run in batches.

    Args:
        candidates: Loaded candidates.
        plan: What is timed.
        load_before: Load average before the candidates were loaded.
        progress: Called as ``progress(stage, done, total)``.

    Returns:
        One record per candidate, and the machine as it was during this phase.
    """
    cpu, board = CpuTimes(), BoardWatch()
    with EnergyMeter() as meter:
        timed = measure_latency(candidates, plan, progress, meter)
    peaks = [one.peak_memory() for one in candidates]
    overheads = measure_overhead(candidates, plan, progress)
    machine = describe_machine(load_before, cpu.steal_percent(), board.readings())
    found = [
        TimedCandidate(timed=answers, overhead=pairs, peak_memory_bytes=peak)
        for answers, pairs, peak in zip(timed, overheads, peaks, strict=True)
    ]
    return found, machine


def batches(rows: Sequence[Row], batch_size: int) -> list[list[int]]:
    """Group row indices so that a batch has equally many images per row, and mostly one task and length."""
    order = sorted(range(len(rows)), key=lambda at: (*_shape(rows[at]), at))
    groups: list[list[int]] = []
    for at in order:
        last = groups[-1] if groups else []
        if last and len(last) < batch_size and len(rows[last[0]].images) == len(rows[at].images):
            last.append(at)
        else:
            groups.append([at])
    return groups


def measure_answers(
    candidate: Measured, rows: Sequence[Row], batch_size: int, progress: Progress
) -> list[Answer]:
    """Answer all rows in batches, the same batches for every candidate.

    Returns:
        One answer per row, in the order of `rows`.
    """
    answers: dict[int, Answer] = {}
    stage = f"answers of {candidate.spec.name}"
    progress(stage, 0, len(rows))
    for group in batches(rows, batch_size):
        answers.update(zip(group, candidate.answer(group), strict=True))
        progress(stage, len(answers), len(rows))
    return [answers[at] for at in range(len(rows))]


def measure_routing(
    candidate: Measured, rows: Sequence[Row], count: int, batch_size: int, progress: Progress
) -> list[RoutingRow]:
    """Return the routing maps of a sample of rows (see `latency_sample`), in the order of the sample."""
    sample = latency_sample(rows, count)
    chosen = [rows[at] for at in sample]
    maps: dict[int, RoutingRow] = {}
    stage = f"routing of {candidate.spec.name}"
    progress(stage, 0, len(sample))
    for group in batches(chosen, batch_size):
        routed = candidate.route([sample[at] for at in group])
        maps.update(zip(group, routed, strict=True))
        progress(stage, len(maps), len(sample))
    return [maps[at] for at in range(len(sample))]


def _shape(row: Row) -> tuple[int, str, int]:
    """Return what makes rows cost alike: images, task (which tells the answer's length) and prompt length."""
    return len(row.images), row.task, len(row.text)


def _evenly(indices: Sequence[int], count: int) -> list[int]:
    count = min(count, len(indices))
    return [indices[at * len(indices) // count] for at in range(count)]


def _rotated(count: int, turn: int) -> list[int]:
    return [(turn + step) % count for step in range(count)]
