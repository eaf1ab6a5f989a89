"""A training that is stopped goes on with the weights, moments, average and schedule that it had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.demo_training.language import Average
from benchmarks.demo_training.snapshots import Snapshots
from benchmarks.demo_training.stages import Optimisers


class _Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4)])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layers[0](inputs)
        return result


def _train(file: Path | None, *, until: int, steps: int = 6) -> tuple[dict[str, Any], list[Any]]:
    """Train the same thing as if it had been stopped after `until` steps of `steps`."""
    torch.manual_seed(0)
    model = _Layers()
    parts: dict[str, Any] = {
        "model": model,
        "optimisers": Optimisers([model], steps=steps, rate=0.1, matrix_rate=0.1, warmup=2),
        "average": Average(model, 0.9),
    }
    log: list[dict[str, float]] = []
    snapshots = Snapshots(file, every=2)
    for step in range(snapshots.begin(1, steps, parts, log) + 1, until + 1):
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        parts["optimisers"].clear()
        (model(inputs) - 1).square().mean().backward()
        parts["optimisers"].update()
        parts["average"].update()
        log.append({"step": step})
        snapshots.keep(1, step, parts, log, last=step == steps)
    return parts["average"].state | {f"now {k}": v for k, v in model.state_dict().items()}, log


def test_a_stopped_training_ends_where_one_in_a_single_run_ends(tmp_path: Path) -> None:
    expected, log = _train(None, until=6)
    _train(tmp_path / "kept.pt", until=5)  # the last snapshot is that of step 4
    found, again = _train(tmp_path / "kept.pt", until=6)
    assert again == log
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_a_stage_that_a_later_one_left_behind_is_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "kept.pt"
    _train(file, until=6)
    assert Snapshots(file).begin(0, 9, {}, []) == 9
    assert Snapshots(file).begin(2, 9, {}, []) == 0
    assert Snapshots(tmp_path / "none.pt").begin(0, 9, {}, []) == 0
