from __future__ import annotations

from moir_edge.data.rows import Row
from moir_edge.device.energy import EnergyMeter
from moir_edge.evaluation.candidates import TimedAnswer
from moir_edge.evaluation.measure import (
    LatencyPlan,
    batches,
    latency_sample,
    measure_answers,
    measure_latency,
    measure_overhead,
    measure_routing,
)

from .fakes import FakeCandidate, right

PLAN = LatencyPlan(rows=(3, 7), repeats=2, warm_up=1, max_new_tokens=8)


def _quiet(stage: str, done: int, total: int) -> None:
    del stage, done, total


def test_sample_takes_tasks_in_turn_and_spreads_inside_them(rows: list[Row]) -> None:
    sample = latency_sample(rows, 6)
    assert [rows[at].task for at in sample] == ["vqa", "statement", "caption"] * 2
    assert sample == (0, 1, 2, 6, 7, 8)
    assert sorted(latency_sample(rows, 99)) == list(range(12))
    assert len(latency_sample(rows, 2)) == 2


def test_candidates_take_turns_row_by_row(rows: list[Row]) -> None:
    log: list[str] = []
    pair = [FakeCandidate("a", right, rows, log=log), FakeCandidate("b", right, rows, log=log)]
    samples = measure_latency(pair, PLAN, _quiet)
    assert log == [
        *("a 3 on 8", "b 3 on 8"),  # warm-up, thrown away
        *("a 3 on 8", "b 3 on 8"),
        *("b 7 on 8", "a 7 on 8"),
        *("a 3 on 8", "b 3 on 8"),
        *("b 7 on 8", "a 7 on 8"),
    ]
    assert [len(own) for own in samples] == [4, 4]


def test_each_answer_gets_the_energy_of_its_time(rows: list[Row]) -> None:
    now = [0.0]

    class Slow(FakeCandidate):
        """Takes as many seconds as its name has letters."""

        def timed(self, index: int, *, router: bool, max_new_tokens: int) -> TimedAnswer:
            now[0] += len(self.spec.name)
            return super().timed(index, router=router, max_new_tokens=max_new_tokens)

    meter = EnergyMeter(lambda: 5.0, clock=lambda: now[0])
    meter.sample()
    pair = [Slow("a", right, rows), Slow("bcd", right, rows)]
    samples = measure_latency(pair, PLAN, _quiet, meter)
    assert [[one.energy_j for one in own] for own in samples] == [[5.0] * 4, [15.0] * 4]
    assert [one.energy_j for one in measure_latency(pair, PLAN, _quiet)[0]] == [None] * 4


def test_overhead_pairs_alternate_and_skip_what_has_no_router(rows: list[Row]) -> None:
    log: list[str] = []
    pair = [
        FakeCandidate("a", right, rows, log=log),
        FakeCandidate("b", right, rows, log=log, router=False),
    ]
    pairs = measure_overhead(pair, PLAN, _quiet)
    assert log == [
        *("a 3 off 1", "a 3 on 1", "a 7 on 1", "a 7 off 1"),
        *("a 3 off 1", "a 3 on 1", "a 7 on 1", "a 7 off 1"),
    ]
    assert pairs[1] is None
    assert pairs[0] is not None
    assert len(pairs[0].on) == len(pairs[0].off) == 4


def test_batches_hold_rows_of_equally_many_images(rows: list[Row]) -> None:
    groups = batches(rows, 3)
    assert sorted(at for group in groups for at in group) == list(range(12))
    assert all(len(group) <= 3 for group in groups)
    assert all(len({len(rows[at].images) for at in group}) == 1 for group in groups)


def test_answers_and_maps_come_back_in_row_order(rows: list[Row]) -> None:
    candidate = FakeCandidate("a", right, rows)
    stages: list[tuple[str, int, int]] = []
    answers = measure_answers(candidate, rows, 5, lambda *step: stages.append(step))
    assert [answer.text for answer in answers] == [row.answers[0] for row in rows]
    assert stages[-1] == ("answers of a", 12, 12)
    maps = measure_routing(candidate, rows, 6, 4, _quiet)
    sample = latency_sample(rows, 6)
    again = candidate.route(sample)
    assert all((one.matched == two.matched).all() for one, two in zip(maps, again, strict=True))
