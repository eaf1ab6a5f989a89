"""MWAM on the shipped checkpoint: nothing in inference, scaled gradients and branch losses in training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from moir_edge.errors import UnsupportedError
from moir_edge.router import last_routing, remove_router
from moir_edge.tuning import Mwam


def _embedding_gradient(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Return the gradient of the loss at the routed embeddings, behind any scaling: (batch, sequence, hidden)."""
    seen: list[torch.Tensor] = []

    def keep(_: Any, args: Any, output: Any) -> None:
        # a new tensor, whose gradient flows on through the hooks of the routed embeddings
        seen.append(output.inputs_embeds)
        output.inputs_embeds.retain_grad()

    handle = model.moir_router.register_forward_hook(keep)
    model(**batch).loss.backward()
    handle.remove()
    return seen[0].grad


def test_inference_is_the_same_to_the_bit_and_there_are_no_parameters(
    model: Any, batch: dict[str, Any]
) -> None:
    names = list(model.state_dict())
    with torch.no_grad():
        before = model(**batch).logits
        mwam = Mwam(model, "hybrid")
        after = model(**batch).logits
    assert torch.equal(before, after)
    assert mwam.record() == {}
    assert list(model.state_dict()) == names


def test_traced_graph_is_the_same_with_and_without(model: Any, batch: dict[str, Any]) -> None:
    embeds = torch.randn(1, 12, model.config.text_config.hidden_size)
    decoder = model.get_decoder()

    def traced() -> str:
        return str(torch.export.export(decoder, (), {"inputs_embeds": embeds, "use_cache": False}))

    from moir_edge.router import hooks_removed

    with hooks_removed(model):
        before = traced()
        Mwam(model, "hybrid")
        assert traced() == before


def test_forward_of_a_training_step_is_untouched_and_gradients_are_scaled(
    model: Any, batch: dict[str, Any]
) -> None:
    model.train()
    plain = _embedding_gradient(model, batch)
    logits = model(**batch).logits
    mwam = Mwam(model, "gradient")
    assert torch.equal(model(**batch).logits, logits)
    model.zero_grad()
    scaled = _embedding_gradient(model, batch)
    record, routing = mwam.record(), last_routing(model)
    assert routing is not None
    assert 0.5 < min(record["k_image"], record["k_text"]) < max(record["k_image"], record["k_text"])
    factor = torch.ones(plain.shape[:2])
    for row in range(2):
        image = routing.image_positions[row]
        factor[row, image[image >= 0]] = record["k_image"]
        factor[row, routing.text_positions[row][routing.text_mask[row]]] = record["k_text"]
    # one float32 product
    torch.testing.assert_close(scaled, plain * factor[..., None], rtol=1e-6, atol=0)


def test_loss_mode_leaves_gradients_and_weighs_branch_losses(
    model: Any, batch: dict[str, Any]
) -> None:
    model.train()
    plain = _embedding_gradient(model, batch)
    mwam = Mwam(model, "loss")
    model.zero_grad()
    assert torch.equal(_embedding_gradient(model, batch), plain)
    record = mwam.record()
    total = mwam.auxiliary_loss(batch)
    assert mwam.record() == record  # the branch passes are not measured
    mwam.balance.load_state({"image": 1.0, "text": 1.0})
    equal = mwam.auxiliary_loss(batch)
    assert total.requires_grad
    assert equal.item() != pytest.approx(total.item())
    mwam.detach()
    model(**batch)
    assert mwam.record()["frm_image"] == 1.0  # as loaded: nothing is measured any more


def test_a_model_without_router_is_refused(model: Any) -> None:
    remove_router(model)
    with pytest.raises(UnsupportedError, match="has no router"):
        Mwam(model, "gradient")
