"""Errors, cosines and agreement against scipy and figures worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moir_edge.errors import NotFiniteError, ShapeError
from moir_edge.evaluation.candidates import ComponentRun
from moir_edge.evaluation.parity.numeric import ComponentFigures
from moir_edge.evaluation.parity.schema import ComponentParity
from moir_edge.runtime.interface import DecoderInputs, RouterArrays

PRECISIONS = {"vision": "fp16", "embedding": "fp32", "router": "fp32", "decoder": "int4"}


def _run(seed: int = 0, *, images: bool = True) -> ComponentRun:
    random = np.random.default_rng(seed)

    def array(*shape: int) -> Any:
        return random.normal(size=shape).astype(np.float32)

    routing = RouterArrays(
        image_positions=np.array([[0, 1]]),
        text_positions=np.array([[3, 4]]),
        text_mask=np.array([[True, True]]),
        scores=array(1, 4),
        indices=np.array([[[3, 4], [4, 3], [0, 1], [1, -1]]]),
        margin=array(1, 4),
        gate=np.array([[1, 1, 0, 0.5]], np.float32),
    )
    return ComponentRun(
        image_features=array(1, 2, 8) if images else None,
        text_embeds=array(1, 5, 8),
        placed=array(1, 5, 8),
        routed=array(1, 5, 8),
        decoder=DecoderInputs.of_mask(np.ones((1, 5), np.int64)),
        routing=routing if images else None,
        logits=array(3, 16),
        tokens=np.array([1, 2]),
    )


def component_parity(
    runs: list[ComponentRun], reference: list[ComponentRun], precisions: dict[str, str]
) -> tuple[ComponentParity, ...]:
    figures = ComponentFigures(precisions)
    for run, truth in zip(runs, reference, strict=True):
        figures.add(run, truth)
    return figures.summary()


def test_a_run_against_itself_is_perfect() -> None:
    runs = [_run(0), _run(1, images=False)]
    parity = {one.component: one for one in component_parity(runs, runs, PRECISIONS)}
    assert list(parity) == ["vision", "embedding", "router", "decoder"]
    assert all(one.max_abs_error == 0 for one in parity.values())
    assert all(one.cosine == pytest.approx(1) for one in parity.values())
    assert parity["vision"].prompts == 1  # the other prompt has no image
    assert parity["decoder"].prompts == 2
    assert parity["decoder"].vectors == 6
    assert parity["router"].index_agreement == 1
    assert parity["decoder"].greedy_agreement == 1
    assert parity["decoder"].precision == "int4"


def test_errors_and_agreement_by_hand() -> None:
    reference = _run()
    logits = reference.logits.copy()
    logits[0] = -logits[0]  # another token wins, and the cosine is -1
    features = reference.image_features.copy()
    features[0, 1, 3] += 0.25
    indices = np.array([[[3, 0], [0, 1], [4, 4], [1, 7]]])
    run = replace(
        reference,
        logits=logits,
        image_features=features,
        routing=replace(reference.routing, indices=indices),
    )
    parity = {one.component: one for one in component_parity([run], [reference], PRECISIONS)}
    # float32 keeps the step of 0.25 on values around 1 to about 1e-7
    assert parity["vision"].max_abs_error == pytest.approx(0.25, abs=1e-6)
    assert parity["decoder"].cosine == pytest.approx((-1 + 1 + 1) / 3)
    assert parity["decoder"].lowest_cosine == pytest.approx(-1)
    assert parity["decoder"].greedy_agreement == pytest.approx(2 / 3)
    # routed tokens: {3, 4} keeps 3, {4, 3} keeps none, {1} keeps 1; the third is not routed
    assert parity["router"].index_agreement == pytest.approx((0.5 + 0 + 1) / 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("first", [True, False])
def test_a_value_that_is_not_finite_leaves_no_figure(bad: float, first: bool) -> None:
    reference = _run()
    logits = reference.logits.copy()
    logits[1, 2] = bad
    # a sound prompt before or after it must not replace it
    runs = [replace(reference, logits=logits), reference]
    (decoder,) = component_parity(
        runs if first else runs[::-1], [reference, reference], {"decoder": "fp16"}
    )
    assert not decoder.is_finite
    figures = (decoder.cosine, decoder.lowest_cosine, decoder.greedy_agreement)
    assert figures == (None, None, None)


@pytest.mark.parametrize("name", ["scores", "gate", "margin"])
def test_a_router_whose_figures_are_not_finite(name: str) -> None:
    reference = _run()
    values = getattr(reference.routing, name).copy()
    values[0, 1] = np.nan  # its embeddings are sound: such a router changes nothing
    run = replace(reference, routing=replace(reference.routing, **{name: values}))
    (router,) = component_parity([run], [reference], {"router": "fp32"})
    assert not router.is_finite
    assert router.index_agreement is None


def test_a_reference_that_is_not_finite_is_refused() -> None:
    logits = _run().logits.copy()
    logits[0, :3] = np.nan
    with pytest.raises(NotFiniteError) as caught:
        component_parity([_run()], [replace(_run(), logits=logits)], {"decoder": "fp32"})
    assert str(caught.value) == (
        "the reference's decoder: 3 of 48 values are NaN or infinite; "
        "nothing can be compared with it, give a reference with finite outputs"
    )


def test_a_component_that_the_reference_alone_has_is_missing() -> None:
    reference = _run()
    figures = ComponentFigures({"vision": "fp32", "embedding": "fp32", "decoder": "fp32"})
    figures.add(replace(reference, routing=None), reference)
    assert figures.missing() == ("router",)
    whole = ComponentFigures(PRECISIONS)
    whole.add(reference, reference)
    assert whole.missing() == ()


def test_no_sources_no_index_agreement() -> None:
    reference = _run()
    none = replace(reference.routing, indices=np.full((1, 4, 1), -1))
    run = replace(reference, routing=none)
    (router,) = component_parity([run], [run], {"router": "fp32"})
    assert router.index_agreement is None


def test_another_model_is_refused() -> None:
    other = replace(_run(), logits=np.zeros((3, 17), np.float32))
    with pytest.raises(ShapeError, match=r"decoder: got shape \(3, 17\), the reference has"):
        component_parity([other], [_run()], {"decoder": "fp32"})
