"""Traced graphs of the tiny checkpoints, once per session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def traced_models(make_checkpoint: Callable[..., Path]) -> Callable[[str], Any]:
    """Return a function that gives the traced model of a `model_type`, traced once per session.

    The LLaVA has a router, the SmolVLM has none.
    """
    from moir_edge.checkpoint import load_checkpoint
    from moir_edge.export.components import trace_components

    done: dict[str, Any] = {}

    def traced(model_type: str) -> Any:
        if model_type not in done:
            folder = make_checkpoint(model_type, router=model_type == "llava")
            checkpoint = load_checkpoint(folder)
            done[model_type] = trace_components(checkpoint)
        return done[model_type]

    return traced
