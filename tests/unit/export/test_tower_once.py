"""The vision tower runs once for the pixels that parity asks torch about in two prompts, and answers as before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from moir_edge.checkpoint import load_checkpoint
from moir_edge.export.facts import model_facts
from moir_edge.export.reference import torch_reference
from moir_edge.export.samples import parity_samples
from moir_edge.export.tower_once import tower_once
from moir_edge.models import architecture_names
from tests.unit.families.tiny import save_tiny


@pytest.mark.parametrize("model_type", architecture_names())
def test_the_tower_runs_once_for_all_prompts(model_type: str, tmp_path: Path) -> None:
    loaded = load_checkpoint(save_tiny(model_type, tmp_path / "model"))
    facts = model_facts(loaded)
    samples = [one for one in parity_samples(loaded, facts) if one.images][:2]
    embedding = next(
        module
        for name, module in loaded.model.named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d)
    )
    calls: list[int] = []
    hook = embedding.register_forward_hook(lambda *_: calls.append(1))
    answers = torch_reference(loaded, facts, samples).samples
    together = len(calls)
    for sample, answer in zip(samples, answers, strict=True):
        inputs = loaded.architecture.torch_inputs(sample)
        with torch.no_grad():
            alone = loaded.architecture.reference_features(loaded.model, inputs).numpy()
        np.testing.assert_array_equal(answer.features, alone)
    hook.remove()
    once = (len(calls) - together) // len(samples)
    assert together == once


def test_other_pixels_are_other_features(tmp_path: Path) -> None:
    model = load_checkpoint(save_tiny("llava", tmp_path / "model")).model
    tower = model.model.vision_tower
    first, second = torch.zeros(1, 3, 24, 24), torch.ones(1, 3, 24, 24)
    with torch.no_grad(), tower_once(model):
        known = tower(first).last_hidden_state
        assert tower(first).last_hidden_state is known
        assert tower(first.clone()).last_hidden_state is known
        assert tower(second).last_hidden_state is not known
        assert tower(first, output_hidden_states=True).last_hidden_state is not known
    assert "forward" not in vars(tower)
