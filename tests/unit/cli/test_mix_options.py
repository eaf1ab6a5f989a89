from __future__ import annotations

from typing import Any

import pytest

from moir_edge.calibration import MixSettings
from moir_edge.cli.mix_options import MixFlags, mix_lines
from moir_edge.errors import DataError, UnsupportedError


def _settings(target: float | None, **given: Any) -> MixSettings | None:
    return MixFlags(target_recovery=target, **given).settings()


def test_nothing_is_measured_unless_asked_for() -> None:
    assert _settings(None) is None
    assert _settings(None, sensitivity=True) == MixSettings()
    assert _settings(99, sensitivity_rows=4, held_out_rows=9) == MixSettings(
        target_recovery=99, sensitivity_rows=4, held_out_rows=9
    )


def test_an_amount_of_nothing_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="--holdout-rows is for --target-recovery"):
        _settings(None, sensitivity=True, held_out_rows=5)
    with pytest.raises(UnsupportedError, match="--sensitivity-rows is for --sensitivity and"):
        _settings(None, sensitivity_rows=5)
    with pytest.raises(DataError, match="target recovery is 0; expected more than 0"):
        _settings(0)


def _layer(name: str, floor: str, chosen: str) -> dict[str, Any]:
    return {"name": name, "precisions": [{"precision": floor}], "chosen": chosen}


def test_what_was_reached_is_said_and_the_raised_layers_named() -> None:
    chosen = {"recovery": 99.634, "low": 98.9, "high": 100.2}
    mix = {
        "target_recovery": 99.5,
        "measure": "task score",
        "held_out_rows": 512,
        "raised_layers": 1,
        "tried": [chosen, chosen],
        "chosen": chosen,
    }
    layers = [
        _layer("decoder: a", "int4", "int8-weight-only"),
        _layer("decoder: b", "int4", "int4"),
    ]
    assert mix_lines({"layers": layers, "mix": mix}) == [
        "recovery 99.63 % (98.90–100.20), target 99.5 %: task score on 512 held-out rows",
        "raised 1 of 2 layers, the smallest of 2 mixes tried that reaches it",
        "  decoder: a: int8-weight-only",
    ]
    assert mix_lines({"layers": layers}) == ["sensitivity of 2 layers: reports/sensitivity.svg"]
