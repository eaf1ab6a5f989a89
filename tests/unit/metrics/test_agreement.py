from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moir_edge.data.answers import Answer
from moir_edge.metrics.agreement import compare_routing, routing_agreement, token_agreement

from ..evaluation.fakes import routing_row

EXACT = 1e-9  # sums of a few doubles


def _answer(*tokens: int) -> Answer:
    return Answer(text="", token_ids=tokens)


def test_token_agreement_by_hand() -> None:
    reference = [_answer(1, 2, 3, 4), _answer(1, 2), _answer()]
    own = [_answer(1, 2, 9, 4), _answer(1, 2, 3), _answer()]
    agreement = token_agreement(own, reference)
    assert agreement.rows == 3
    assert agreement.identical == pytest.approx(1 / 3, abs=EXACT)
    # 2 of 4 before the first difference, 2 of the longer 3, nothing to differ in
    assert agreement.leading == pytest.approx((0.5 + 2 / 3 + 1) / 3, abs=EXACT)


def test_a_map_agrees_with_itself() -> None:
    one = routing_row()
    agreement = routing_agreement([one], [one])
    assert agreement is not None
    assert (agreement.rows, agreement.tokens) == (1, 4)
    assert agreement.index_agreement == agreement.best_index_agreement == 1.0
    assert agreement.routed_agreement == 1.0
    assert agreement.margin == agreement.reference_margin == 0.5
    assert agreement.matched_cosine == pytest.approx(1.0, abs=EXACT)
    assert agreement.added_cosine == pytest.approx(1.0, abs=EXACT)


def test_routers_that_add_nothing_add_the_same() -> None:
    reference = routing_row()
    nothing = replace(reference, added=np.zeros_like(reference.added))
    agreement = routing_agreement([nothing], [nothing])
    assert agreement is not None
    assert agreement.added_cosine == 1.0
    one_sided = routing_agreement([nothing], [reference])
    assert one_sided is not None
    assert one_sided.added_cosine == 0.0


def test_routing_agreement_by_hand() -> None:
    reference = routing_row()
    sources = reference.sources.copy()
    sources[0] = [5, 4]  # the same set, another best
    sources[1] = [5, 3]  # one of two found
    sources[2] = [1, -1]  # the only source lost; -1 does not count as found
    gates = reference.gates.copy()
    gates[3], gates[4] = 0, 1  # one token routed by the reference only, one by the candidate only
    matched = reference.matched.copy()
    matched[2] = -matched[2]
    added = reference.added.copy()
    added[1] = -added[1]
    own = replace(reference, sources=sources, gates=gates, matched=matched, added=added)
    agreement = routing_agreement([own], [reference])
    assert agreement is not None
    assert agreement.index_agreement == pytest.approx((1 + 0.5 + 0 + 1) / 4, abs=EXACT)
    assert agreement.best_index_agreement == pytest.approx(0.5, abs=EXACT)
    assert agreement.routed_agreement == pytest.approx(3 / 5, abs=EXACT)
    assert agreement.matched_cosine == pytest.approx((1 + 1 - 1) / 3, abs=EXACT)
    assert agreement.added_cosine == pytest.approx((1 - 1 + 1) / 3, abs=EXACT)


def test_nothing_routed_and_other_tokens() -> None:
    one = routing_row()
    still = replace(one, gates=np.zeros(6, np.float32))
    assert routing_agreement([one], [still]) is None
    pooled = replace(one, sources=np.full_like(one.sources, -1))
    assert routing_agreement([pooled], [pooled]) is None
    with pytest.raises(ValueError, match="do not tokenize the prompt alike"):
        routing_agreement([replace(one, positions=one.positions + 1)], [one])


@pytest.mark.parametrize("name", ["margins", "gates", "matched", "added"])
@pytest.mark.parametrize("on_reference", [True, False])
def test_maps_that_are_not_finite_have_no_agreement(name: str, on_reference: bool) -> None:
    values = getattr(routing_row(), name).copy()
    values[0] = np.nan
    bad = [routing_row(), replace(routing_row(), **{name: values})]
    good = [routing_row(), routing_row()]
    own, reference = (good, bad) if on_reference else (bad, good)
    assert compare_routing(own, reference) == (None, "not finite in 1 of 2 prompts")


def test_why_there_is_no_agreement() -> None:
    one = [routing_row()]
    assert compare_routing(None, one) == (
        None,
        "not measured: no router, and the reference has one",
    )
    assert compare_routing(one, None) == (None, None)
    agreement, reason = compare_routing(one, one)
    assert agreement is not None
    assert reason is None
