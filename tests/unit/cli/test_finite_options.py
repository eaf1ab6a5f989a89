"""NaN and infinity on the command line and in settings objects: one line that names the option."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import ValidationError

from moir_edge.calibration.mixed.settings import MixSettings
from moir_edge.calibration.settings import CalibrationSettings
from moir_edge.cli.groups import with_groups
from moir_edge.cli.main import COMMANDS, main
from moir_edge.errors import MoirEdgeError
from moir_edge.evaluation import BenchBounds, GateBounds
from moir_edge.export.parity import check_parity_rtol
from moir_edge.router import RouterConfig
from moir_edge.runtime.settings import GenerationSettings
from moir_edge.tuning.settings import TuneSettings

WORDS = {
    "bench": ["bundle"],
    "chat": ["bundle"],
    "compare": ["vlm", "bundle", "--data=rows.jsonl", "-o=report"],
    "export": ["vlm", "-o=bundle"],
    "retrofit": ["vlm", "-o=routed"],
    "run": ["bundle", "-p=text"],
    "serve": ["bundle"],
    "tune": ["vlm", "--data=rows.jsonl", "-o=tuned"],
}


def _float_options() -> list[tuple[str, str]]:
    """Return command and flag of every option that converts to a float, from the commands' signatures."""
    functions = {
        name: getattr(importlib.import_module(f"moir_edge.cli.{name}"), name) for name in COMMANDS
    }
    return [
        (name, "--" + option.replace("_", "-"))
        for name, function in functions.items()
        for option, kind in get_type_hints(with_groups(function)).items()
        if float in (kind, *get_args(kind))
    ]


def test_the_options_are_found() -> None:
    found = set(_float_options())
    assert len(found) >= 20
    assert {
        ("bench", "--max-slowdown"),
        ("compare", "--min-recovery"),
        ("export", "--parity-rtol"),
        ("retrofit", "--ratio"),
        ("run", "--temperature"),
        ("tune", "--learning-rate"),
    } <= found


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize(("command", "flag"), _float_options())
def test_a_flag_takes_no_number_that_is_not_finite(
    command: str, flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, f"{flag}={value}", *WORDS[command]]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"error: Invalid value for '{flag}': ")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, GateBounds) for name in GateBounds.model_fields if name != "gate_on"),
        *((name, BenchBounds) for name in BenchBounds.model_fields),
        *((name, TuneSettings) for name in ("epochs", "learning_rate", "degrade_share")),
        *((name, RouterConfig) for name in ("ratio", "threshold", "temperature")),
        *((name, GenerationSettings) for name in ("temperature", "top_p")),
        ("target_recovery", MixSettings),
        ("rtol", check_parity_rtol),
    ],
)
def test_settings_objects_take_no_number_that_is_not_finite(
    name: str, settings: Callable[..., Any], value: float
) -> None:
    words = "parity tolerance" if name == "rtol" else name.replace("_", "[ _]")
    with pytest.raises((MoirEdgeError, ValidationError), match=words):
        settings(**{name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "words"), [("min_snr_db", "min_snr_db"), ("smoothing", "calibration.smoothing")]
)
def test_calibration_settings_take_no_number_that_is_not_finite(
    name: str, words: str, value: float, tmp_path: Any
) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises((MoirEdgeError, ValidationError), match=words):
        CalibrationSettings(data=tmp_path / "rows.jsonl", **{name: value})
