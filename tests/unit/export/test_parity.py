"""The gate of a float32 bundle, and figures on the router's choices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from moir_edge.errors import NotFiniteError, ToleranceError
from moir_edge.export.parity import require_fp32_parity
from moir_edge.export.parity_figures import ParityFigures
from moir_edge.export.samples import parity_samples
from moir_edge.metrics.routed import RoutedPrompts, RoutingFigures, same_choice


def _figures(errors: dict[str, float], scale: float = 1.0) -> dict[str, Any]:
    return {
        "max_abs_error": {name: error * scale for name, error in errors.items()},
        "max_rel_error": errors,
        "reference_scale": dict.fromkeys(errors, scale),
        "router": None,
    }


@pytest.mark.parametrize("error", [0.1, float("nan"), float("inf")])
def test_error_above_tolerance_is_named(error: float) -> None:
    figures = _figures({"vision": 0.0, "decode logits": error}, scale=20.0)
    with pytest.raises(ToleranceError) as caught:
        require_fp32_parity(figures, ["decode logits"])
    assert str(caught.value) == (
        f"decode logits: max abs error {20 * error:.2e} against torch is {error:.2e} of the output's scale "
        "2.00e+01, tolerance 1e-04 (parity rtol); nothing was written"
    )


def test_error_within_tolerance_passes() -> None:
    require_fp32_parity(_figures({"decode logits": 9e-5}), ["decode logits"])
    require_fp32_parity(_figures({"decode logits": 9e-3}), ["decode logits"], rtol=1e-2)


def test_an_output_that_was_not_compared_is_refused() -> None:
    with pytest.raises(ToleranceError) as caught:
        require_fp32_parity(_figures({"decode logits": 0.0}), ["decode logits", "router"])
    assert str(caught.value) == (
        "router: not compared with torch, so the graphs lack it; nothing was written"
    )


def test_sources_that_are_not_torchs_are_refused() -> None:
    figures = _figures({"router": 0.0}) | {"router": {"matched_token_cosine": 0.5}}
    with pytest.raises(ToleranceError) as caught:
        require_fp32_parity(figures, ["router"])
    assert str(caught.value) == (
        "router: its sources differ from torch's, matched-token cosine 0.5000, at least 0.99; "
        "nothing was written"
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at_torch", [True, False])
def test_what_is_not_finite_is_refused_on_either_side(bad: float, at_torch: bool) -> None:
    figures = ParityFigures({"vision": "fp16"})
    figures.sample = "one image"
    figures.error("vision", np.ones((1, 2)), np.ones((1, 2)))
    values = np.array([[1.0, bad]])
    sides = (np.ones((1, 2)), values) if at_torch else (values, np.ones((1, 2)))
    with pytest.raises(NotFiniteError) as caught:
        figures.error("vision", *sides)
    where = "torch itself" if at_torch else "the fp16 graph"
    assert str(caught.value).startswith(
        f"vision: 1 of 2 values is NaN or infinite in {where} on the prompt 'one image'"
    )
    assert str(caught.value).endswith(
        "nothing was written; the checkpoint is damaged, check how it was trained or converted"
        if at_torch
        else "torch's are finite; nothing was written; export vision in fp32"
    )


def test_errors_are_relative_to_the_largest_value_of_all_prompts() -> None:
    figures = ParityFigures({})
    figures.error("vision", np.array([1000.0, 1.0]), np.array([1000.0, 0.75]))
    figures.error("vision", np.array([2.0]), np.array([2.125]))
    figures.error("embedding", np.array([0.5]), np.array([0.0]))
    figures.logits("prefill logits", np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]]))
    assert figures.summary() == {
        "max_abs_error": {"vision": 0.25, "embedding": 0.5, "prefill logits": 2.0},
        # no scale where torch gives nothing but zeros: the absolute error
        "max_rel_error": {"vision": 0.25 / 1000, "embedding": 0.5, "prefill logits": 0.5},
        "reference_scale": {"vision": 1000.0, "embedding": 0.0, "prefill logits": 4.0},
        "greedy_agreement": 1.0,
    }


def _routed(values: dict[str, Any]) -> RoutedPrompts:
    """Return outputs of a router; what a test does not name is empty."""
    empty = dict.fromkeys(
        ("embeds", "positions", "scores", "indices", "margin", "gate"), np.zeros(0)
    )
    return RoutedPrompts(**(empty | values))


def test_embeddings_count_where_both_routers_chose_alike() -> None:
    expected = {
        "positions": np.array([[0, 1, 3, -1]]),
        "embeds": np.zeros((1, 5, 2)),
        "indices": np.array([[[3], [3], [0], [-1]]]),
        "gate": np.array([[0.5, 0.0, 0.5, 0.0]]),
    }
    got = expected | {
        "indices": np.array([[[2], [3], [0], [7]]]),  # another source of the first
        "gate": np.array([[0.5, 0.1, 0.4, 0.0]]),  # the second is routed too
    }
    assert same_choice(_routed(got), _routed(expected))[0, :, 0].tolist() == [
        False,
        False,
        True,
        True,
        True,
    ]


def test_samples_hold_as_many_image_tokens_as_features(
    traced_models: Callable[[str], Any],
) -> None:
    traced = traced_models("llava")
    samples = parity_samples(traced.checkpoint, traced.facts)
    assert any((sample.attention_mask == 0).any() for sample in samples)
    for sample in samples:
        tokens = int((sample.input_ids == traced.facts.image_token_id).sum())
        tiles = np.zeros((0, 1)) if sample.pixel_values is None else sample.pixel_values
        assert tokens == len(tiles) * traced.facts.tokens_per_tile
        assert np.abs(tiles).max(initial=0) <= 1


_EXPECTED = {
    "embeds": np.eye(4)[None],
    "scores": np.array([[0.1, 0.2, 0.9]]),
    "indices": np.array([[[0, 1], [2, 3], [-1, -1]]]),
    "margin": np.array([[0.5, 0.25, 0.0]]),
    "gate": np.array([[0.9, 0.8, 0.0]]),
}


def test_routing_figures() -> None:
    # Three tokens; the third is not routed. The graph swaps one of the first token's sources for an orthogonal one.
    figures = RoutingFigures()
    figures.compare(
        _routed(_EXPECTED),
        _routed(
            {
                "scores": np.array([[0.1, 0.25, 0.9]]),
                "indices": np.array([[[0, 2], [3, 2], [-1, -1]]]),
                "gate": np.array([[0.9, 0.75, 0.1]]),
                "margin": np.array([[0.5, 0.75, 0.1]]),
            }
        ),
    )
    summary = figures.summary()
    assert summary is not None
    assert summary["routed_tokens"] == 2
    assert summary["index_agreement"] == 0.75
    assert summary["gate_flips"] == 1
    assert summary["margin_median"] == 0.375
    assert summary["graph_margin_median"] == 0.625
    assert summary["score_max_abs_error"] == pytest.approx(0.05)
    # Best sources: equal, orthogonal.
    assert summary["matched_token_cosine"] == 0.5


@pytest.mark.parametrize("name", ["scores", "margin", "gate"])
@pytest.mark.parametrize("side", ["reference", "graph"])
def test_routing_that_is_not_finite_has_no_figures(name: str, side: str) -> None:
    values = _EXPECTED[name].copy()
    values[0, 2] = np.nan
    bad = _EXPECTED | {name: values}
    pair = (bad, _EXPECTED) if side == "reference" else (_EXPECTED, bad)
    with pytest.raises(NotFiniteError) as caught:
        RoutingFigures().compare(*map(_routed, pair))
    assert str(caught.value) == f"router_{name} of the {side}: 1 of 3 values is NaN or infinite"


def test_a_graph_that_names_no_source_finds_none() -> None:
    figures = RoutingFigures()
    lost = _EXPECTED | {"indices": np.full((1, 3, 2), -1)}
    figures.compare(_routed(_EXPECTED), _routed(lost))
    summary = figures.summary()
    assert summary is not None
    assert (summary["index_agreement"], summary["matched_token_cosine"]) == (0.0, 0.0)


def test_no_routing_gives_no_figures() -> None:
    assert RoutingFigures().summary() is None


def test_routing_figures_of_a_router_without_single_sources() -> None:
    pooled = {
        "embeds": np.eye(4)[None],
        "scores": np.array([[0.25, 0.5]]),
        "indices": np.full((1, 2, 1), -1),
        "margin": np.zeros((1, 2)),
        "gate": np.array([[0.75, 0.5]]),
    }
    figures = RoutingFigures()
    figures.compare(_routed(pooled), _routed(pooled))
    assert figures.summary() == {"routed_tokens": 2, "score_max_abs_error": 0.0, "gate_flips": 0}
