"""A router of both directions on the shipped checkpoint's weights, of which the router is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from moir_edge.router import RouterConfig, remove_router, retrofit
from moir_edge.tuning.adapters import train_only


@pytest.fixture
def both(model: Any, processor: Any) -> Any:
    """In training mode, and past the start: `up` is not zero any more, so that every weight of it has a gradient."""
    remove_router(model)
    torch.manual_seed(0)
    retrofit(model, RouterConfig(ratio=1.0, top_k=4, merge="concat"), tokenizer=processor.tokenizer)
    for side in (model.moir_router.image, model.moir_router.text):
        torch.nn.init.normal_(side.up.weight, std=0.02)
    train_only(model, "router")
    return model.train()
