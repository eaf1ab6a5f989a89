"""The gate of a float32 bundle, and figures on the router's choices."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from moir_edge.errors import ToleranceError
from moir_edge.export import routing_parity
from moir_edge.export.parity import require_fp32_parity
from moir_edge.export.routing_parity import RoutingFigures
from moir_edge.export.samples import parity_samples


@pytest.mark.parametrize("error", [0.1, float("nan"), float("inf")])
def test_error_above_tolerance_is_named(error: float) -> None:
    with pytest.raises(ToleranceError, match=r"decode logits: max abs error .*tolerance 1e-03"):
        require_fp32_parity({"max_abs_error": {"vision": 0.0, "decode logits": error}})


def test_error_within_tolerance_passes() -> None:
    require_fp32_parity({"max_abs_error": {"decode logits": 9e-4}})


def test_samples_hold_as_many_image_tokens_as_features(
    traced_models: Callable[[str], Any],
) -> None:
    traced = traced_models("llava")
    samples = parity_samples(traced.checkpoint, traced.facts)
    assert any((sample.attention_mask == 0).any() for sample in samples)
    for sample in samples:
        tokens = int((sample.input_ids == traced.facts.image_token_id).sum())
        assert tokens == len(sample.tiles) * traced.facts.tokens_per_tile
        assert np.abs(sample.tiles).max(initial=0) <= 1


def test_routing_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    # Three tokens; the third is not routed. The graph swaps one of the first token's sources for an orthogonal one.
    output = SimpleNamespace(
        inputs_embeds=torch.eye(4)[None],
        scores=torch.tensor([[0.1, 0.2, 0.9]]),
        indices=torch.tensor([[[0, 1], [2, 3], [-1, -1]]]),
        margin=torch.tensor([[0.5, 0.25, 0.0]]),
        gate=torch.tensor([[0.9, 0.8, 0.0]]),
    )
    monkeypatch.setattr(
        "moir_edge.router.last_routing", lambda _: SimpleNamespace(output=output), raising=False
    )
    figures = routing_parity.RoutingFigures()
    figures.add(
        None,
        {
            "router_scores": np.array([[0.1, 0.25, 0.9]]),
            "router_indices": np.array([[[0, 2], [3, 2], [-1, -1]]]),
            "router_gate": np.array([[0.9, 0.75, 0.1]]),
            "router_margin": np.array([[0.5, 0.75, 0.1]]),
        },
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


def test_no_routing_gives_no_figures() -> None:
    assert RoutingFigures().summary() is None


def test_routing_figures_of_a_router_without_single_sources(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = SimpleNamespace(
        inputs_embeds=torch.eye(4)[None],
        scores=torch.tensor([[0.25, 0.5]]),
        indices=torch.full((1, 2, 1), -1),
        margin=torch.zeros(1, 2),
        gate=torch.tensor([[0.75, 0.5]]),
    )
    monkeypatch.setattr(
        "moir_edge.router.last_routing", lambda _: SimpleNamespace(output=output), raising=False
    )
    figures = routing_parity.RoutingFigures()
    got = {name: getattr(output, name).numpy() for name in ("scores", "indices", "margin", "gate")}
    figures.add(None, {f"router_{name}": value for name, value in got.items()})
    assert figures.summary() == {"routed_tokens": 2, "score_max_abs_error": 0.0, "gate_flips": 0}
