"""Which rows and which weights make a branch, and what is refused where there is one branch alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from moir_edge.errors import UnsupportedError
from moir_edge.router import RouterConfig, last_routing, remove_router, retrofit
from moir_edge.tuning.adapters import Adapters, train_only
from moir_edge.tuning.balancing.branches import BRANCHES, BranchRows, branch_weights
from moir_edge.tuning.balancing.build import balance_method


def _names(model: Any, weights: list[torch.nn.Parameter]) -> set[str]:
    ids = {id(weight) for weight in weights}
    return {name for name, weight in model.named_parameters() if id(weight) in ids}


def test_a_branch_alone_is_its_routed_rows_and_the_answer(both: Any, batch: dict[str, Any]) -> None:
    seen: list[torch.Tensor] = []
    rows = BranchRows(both)
    layer = both.get_decoder().layers[0]
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    with torch.no_grad():
        both(**batch)
        for branch in BRANCHES:
            with rows.alone(branch):
                both(**batch)
    whole, image_alone, text_alone = seen
    routing = last_routing(both)
    assert routing is not None
    for row in range(2):
        image = routing.image_positions[row]
        image, text = image[image >= 0], routing.text_positions[row][routing.text_mask[row]]
        rest = [at for at in range(whole.shape[1]) if at not in {*image.tolist(), *text.tolist()}]
        for alone, kept, hidden in ((image_alone, image, text), (text_alone, text, image)):
            assert torch.equal(alone[row, kept], whole[row, kept])
            assert torch.equal(alone[row, rest], whole[row, rest])
            assert not alone[row, hidden].any()


def test_evaluation_mode_and_a_detached_hook_change_nothing(
    both: Any, batch: dict[str, Any]
) -> None:
    rows = BranchRows(both)
    both.eval()
    with torch.no_grad():
        plain = both(**batch).logits
        with rows.alone("image"):
            assert torch.equal(both(**batch).logits, plain)
        both.train()
        trained = both(**batch).logits
        rows.detach()
        with rows.alone("image"):
            assert torch.equal(both(**batch).logits, trained)


def test_weights_of_the_router_belong_to_the_tokens_that_they_read(both: Any) -> None:
    names = {
        branch: _names(both, found) for branch, found in branch_weights(both, "ogm-ge").items()
    }
    router = {name for name, _ in both.named_parameters() if name.startswith("moir_router.")}
    assert names["image"] | names["text"] == router
    assert all(name.startswith("moir_router.image.") for name in names["image"])
    Adapters(both, rank=2, seed=0)
    train_only(both, "lora")
    assert {
        branch: _names(both, found) for branch, found in branch_weights(both, "ogm-ge").items()
    } == names  # adapters serve both


def test_of_a_whole_model_tower_and_connector_are_the_image_branch(both: Any) -> None:
    train_only(both, "full")
    found = branch_weights(both, "ogm-ge")
    parts = {name.split(".")[1] for name in _names(both, found["image"])}
    assert parts == {"vision_model", "connector", "image"}
    # the demo's embeddings are its output head too, so that they serve both
    assert both.get_input_embeddings().weight is both.get_output_embeddings().weight
    assert {name.split(".")[1] for name in _names(both, found["text"])} == {"text"}
    head = both.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    assert "model.text_model.embed_tokens.weight" in _names(
        both, branch_weights(both, "ogm-ge")["text"]
    )


def test_one_branch_alone_is_refused(model: Any, processor: Any) -> None:
    train_only(
        model, "router"
    )  # a token router that enriches text: it scores and reads image tokens
    assert all(branch_weights(model, "ogm-ge").values())
    message = (
        r"^`balance_method=mwam-gradient` scales gradients of image rows against those of text rows, but the router's "
        r"direction 'image-to-text' changes text rows alone; attach a router of direction 'both', or train `full`$"
    )
    with pytest.raises(UnsupportedError, match=message):
        balance_method("mwam-gradient", model)
    train_only(model, "full")
    balance_method("mwam-gradient", model).detach()
    remove_router(model)
    with pytest.raises(UnsupportedError, match="has no router"):
        balance_method("mwam-loss", model)
    retrofit(
        model, RouterConfig(kind="gate", direction="image-to-text"), tokenizer=processor.tokenizer
    )
    train_only(model, "router")
    message = (
        r"^`balance_method=ogm-ge` sets weights of image tokens against weights of text tokens, but none of image tokens "
        r"is trained; attach a router of direction 'both', or train `full`$"
    )
    with pytest.raises(UnsupportedError, match=message):
        balance_method("ogm-ge", model)
