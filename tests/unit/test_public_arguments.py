"""Arguments of wrong types: every public function and settings class refuses them in one line, or takes them."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import moir_edge
from moir_edge import (
    bundle,
    calibration,
    checkpoint,
    data,
    demo,
    engines,
    evaluation,
    export,
    metrics,
    router,
    targets,
    tuning,
    weights,
)
from moir_edge.arguments import integer, number, paths, strings, switch, wrong_type
from moir_edge.checked import checked
from moir_edge.data.formats import DataSource
from moir_edge.errors import DataError, MoirEdgeError
from moir_edge.runtime.settings import GenerationSettings

Call = Callable[..., Any]

PACKAGES = (
    *("moir_edge", "bundle", "calibration", "checkpoint", "data", "demo", "engines", "evaluation", "export"),
    *("metrics", "router", "targets", "tuning", "weights"),
)  # fmt: skip

# Records of results and of files: made by moir-edge itself, never by hand.
RECORDS = {
    *("BenchReport", "ComparisonReport", "DiagnosisReport", "TuneReport", "QuantizationSummary", "QuantizedWeight"),
    *("ActivationScale", "LayerSensitivity", "PrecisionCost", "Checkpoint", "TracedModel", "Bundle", "Manifest"),
    *("ComponentEntry", "EngineEntry", "FileEntry", "FusedEntry", "ImageGrid", "ModelFacts", "SourceEntry", "TableEntry", "TensorPlace", "TensorSpec", "Row"),
    *("PromptPositions", "RouterOutput", "Routing", "DemoRow", "Target", "PerOutputChannel", "BranchBalance", "Router"),
    *("load_whole", "refuse_own_class", "build_engines", "checkpoint_path"),  # of the package's own use
}  # fmt: skip


class Odd:
    """Fails to describe itself."""

    def __repr__(self) -> str:
        raise RuntimeError("no description")


WRONG: list[Any] = [
    *(3, 2.5, True, None, "", "x", "\0", "\ud800", b"x", bytearray(b"x"), memoryview(b"x"), Odd(), print),
    *([], [3], (), {}, {"a": 1}, {1, 2}, float("nan"), 10**400, 1 + 2j, io.BytesIO(b"x")),
    *(np.zeros(3), np.int64(3), np.float32(1.5), np.bool_(True), np.str_("x"), np.array(["x"]), np.array(2)),
    *(Path("nowhere"), torch.zeros(2)),
]  # fmt: skip


def entered(manager: Callable[..., AbstractContextManager[Any]]) -> Call:
    def call(**arguments: Any) -> None:
        with manager(**arguments):
            pass

    return call


NOWHERE = "nowhere/at-all"
LINEAR = torch.nn.Linear(1, 1)
CONFIG = router.RouterConfig()
IDS = np.array([[1, 2, 3]])
SCORES = {"scores": [1.0, 2.0]}
MANY = {"force": False, "progress": None}

FUNCTIONS: dict[str, dict[str, Any]] = {
    "bench": {"settings": evaluation.BenchSettings(bundles=(NOWHERE,)), "output": None, **MANY},
    "compare": {"checkpoint": NOWHERE, "bundles": [NOWHERE], "data": NOWHERE, "output": None, "settings": None, "bounds": None, **MANY},
    "diagnose": {"sources": [NOWHERE], "data": NOWHERE, "output": None, "settings": None, **MANY},
    "tune": {"checkpoint": NOWHERE, "output": NOWHERE, "data": NOWHERE, "eval_data": None, "settings": None, "resume": False, **MANY},
    "training_folder": {"output": NOWHERE},
    "allocation_weight": {"relative": 1.0},
    "frequency_ratio": {"planes": torch.rand(1, 4, 4), "valid": None, "sigma": 1e-6},
    "scale_gradient": {"features": torch.rand(2)},
    "Mwam": {"model": LINEAR, "mode": "loss"},
    "export_bundle": {"checkpoint": NOWHERE, "output": NOWHERE, "settings": None, "target": "cpu", "precision": "fp32", **MANY},
    "assemble": {"traced": None, "output": NOWHERE, **MANY},
    "load_checkpoint": {"checkpoint": NOWHERE, "exported": True},
    "trace_components": {"checkpoint": None, "progress": None},
    "build_router": {"config": CONFIG, "hidden_size": 4},
    "TokenRouter": {"config": CONFIG, "hidden_size": 4},
    "ChannelRouter": {"config": router.RouterConfig(kind="channel"), "hidden_size": 4},
    "GateRouter": {"config": router.RouterConfig(kind="gate"), "hidden_size": 4},
    "InformationRouter": {"visual_dim": 2, "text_dim": 2, "output_dim": 2},
    "retrofit": {"model": LINEAR, "config": None, "tokenizer": None, "special_token_ids": None, "probe": True},
    "load_retrofitted": {"source": NOWHERE, "probe": True},
    "remove_router": {"model": LINEAR},
    "last_routing": {"model": LINEAR},
    "hooks_removed": {"model": LINEAR},
    "router_disabled": {"model": LINEAR},
    "probe_router": {"model": LINEAR, "inputs": None},
    "special_token_ids": {"tokenizer": None},
    "newline_token_ids": {"tokenizer": None},
    "prompt_positions": {"input_ids": IDS, "attention_mask": None, "image_token_id": 2, "special_ids": (1,), "newline_ids": (), "answers": None},
    "observe": {"model": None, "feeds": [], "gram": False},
    "quantize": {"model": None, "precision": "int4", "options": None},
    "sensitivity": {"model": None, "feeds": [], "precision": "int4", "output": "logits", "options": None},
    "ActivationObserver": {"channels": 3, "gram": False},
    "load_processor": {"folder": NOWHERE},
    "processor_note": {"folder": NOWHERE},
    "require_chat_template": {"processor": None},
    "write_checkpoint": {"model": LINEAR, "source": NOWHERE, "folder": NOWHERE},
    "check_files": {"folder": NOWHERE},
    "check_finite": {"model": LINEAR},
    "check_known": {"config": {"model_type": "smolvlm"}},
    "generative_class": {"config": None},
    "load_config": {"folder": NOWHERE},
    "resolve_checkpoint": {"checkpoint": NOWHERE},
    "weights_sha256": {"folder": NOWHERE},
    "open_bundle": {"path": NOWHERE, "verify": True},
    "check_bundle_output": {"output": NOWHERE, "force": False},
    "staged_bundle": {"force": False, "keep_others": False},
    "seal": {"manifest": None},
    "component_sha256": {"manifest": None},
    "find_engine": {"manifest": None},
    "check_engine": {"entry": None, "manifest": None},
    "add_engines": {"bundle": NOWHERE, "target": None, "options": None, "refit": None, "progress": None},
    "buildable_target": {"target": "cpu"},
    "read_rows": {"path": NOWHERE, "limit": None},
    "demo_rows": {"count": 1, "seed": 0, "tasks": ("vqa",), "theme": None},
    "write_jsonl": {"rows": []},
    "cider_d": {"predictions": ["a"], "references": [["a"]]},
    "mean_interval": {**SCORES, "seed": 0},
    "ratio_interval": {**SCORES, "reference": [1.0, 2.0], "seed": 0},
    "Interval": {"value": 1.0, "low": 1.0, "high": 1.0},
    "normalize_answer": {"answer": "a"},
    "statement_accuracy": {"prediction": "a", "answers": ["a"]},
    "statement_consistency": {**SCORES, "groups": ["a", None]},
    "tokenize_caption": {"text": "a"},
    "vqa_accuracy": {"prediction": "a", "answers": ["a"] * 10},
    "available_precisions": {"target": targets.get_target("cpu")},
    "check_precision": {"target": "cpu", "precision": "fp32", "component": None},
    "get_target": {"name": "cpu"},
    "register_target": {"target": None},
    "session_config": {"component": "router", "precision": "fp32", "runtime_version": "1.31.0", "exact": False},
    "load": {"bundle": NOWHERE, "verify": False},
}  # fmt: skip
MORE: dict[str, dict[str, Any]] = {  # what a function needs beside the arguments that are tried
    "require_chat_template": {"folder": NOWHERE},
    "load_processor": {"config": None},
    "check_finite": {"source": NOWHERE},
    "check_known": {"name": "x"},
    "generative_class": {"name": "x"},
    "scale_gradient": {"weight": 1.0},
    "staged_bundle": {"output": NOWHERE},
    "seal": {"folder": NOWHERE},
    "component_sha256": {"name": "router"},
    "find_engine": {"component": "router", "builder": "tensorrt", "compute_capability": "8.9"},
    "check_engine": {"builder": "tensorrt", "version": "10", "compute_capability": "8.9"},
    "demo_rows": {"split": "test"},
    "write_jsonl": {"folder": "demo"},
}
CLASSES: dict[str, tuple[type, dict[str, Any]]] = {
    "BenchBounds": (evaluation.BenchBounds, {}),
    "BenchSettings": (evaluation.BenchSettings, {"bundles": (NOWHERE,)}),
    "CalibrationSettings": (calibration.CalibrationSettings, {"data": __file__}),
    "CompareSettings": (evaluation.CompareSettings, {}),
    "DataSource": (DataSource, {"path": NOWHERE}),
    "DiagnoseSettings": (evaluation.DiagnoseSettings, {}),
    "EngineOptions": (engines.EngineOptions, {}),
    "ExportSettings": (export.ExportSettings, {}),
    "GateBounds": (evaluation.GateBounds, {}),
    "GenerationSettings": (GenerationSettings, {}),
    "LayerOptions": (calibration.LayerOptions, {}),
    "MixSettings": (calibration.MixSettings, {}),
    "PerBlock": (calibration.PerBlock, {}),
    "RouterConfig": (router.RouterConfig, {}),
    "TuneSettings": (tuning.TuneSettings, {}),
}
_MODULES = (
    moir_edge, bundle, calibration, checkpoint, data, demo, engines, evaluation, export, metrics, router, targets,
    tuning, weights,
)  # fmt: skip


def public(name: str) -> Call:
    for module in _MODULES:
        if name in module.__all__:
            found: Call = getattr(module, name)
            return entered(found) if name in ("hooks_removed", "router_disabled") else found
    raise AssertionError(name)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    known = dict(targets.TARGETS)
    yield
    assert known == targets.TARGETS


def refused_or_taken(call: Call, arguments: dict[str, Any], name: str, value: Any) -> None:
    try:
        call(**{**arguments, name: value})
    except MoirEdgeError as error:
        line = str(error)
        assert line.isprintable()
        assert len(line) < 2_100


def test_every_public_name_is_tried() -> None:
    names = set()
    for package in PACKAGES:
        module = importlib.import_module(
            package if package == "moir_edge" else f"moir_edge.{package}"
        )
        names |= {name for name in module.__all__ if callable(getattr(module, name))}
    assert names - FUNCTIONS.keys() - CLASSES.keys() - RECORDS == set()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    call, base = public(name), FUNCTIONS[name] | MORE.get(name, {})
    if name not in ("hooks_removed", "router_disabled"):
        assert set(base) <= inspect.signature(call).parameters.keys() | {"target", "precision"}
    for parameter in FUNCTIONS[name]:
        for value in WRONG:
            refused_or_taken(call, base, parameter, value)


@pytest.mark.parametrize("name", CLASSES)
def test_settings(name: str) -> None:
    kind, base = CLASSES[name]
    fields = (
        [one.name for one in dataclasses.fields(kind) if one.init]
        if dataclasses.is_dataclass(kind)
        else list(kind.model_fields)  # type: ignore[attr-defined]
    )
    for field in set(fields) - {"argument"}:
        for value in WRONG:
            refused_or_taken(kind, base, field, value)


def test_a_message_names_argument_value_and_expectation() -> None:
    expected = {
        "tune: seed is 'x' (str); it must be a whole number": lambda: tuning.TuneSettings(seed="x"),  # type: ignore[arg-type]
        "calibration rows is 2.5 (float); it must be a whole number": lambda: calibration.CalibrationSettings(
            data=Path(__file__), rows=2.5  # type: ignore[arg-type]
        ),
        "settings is {} (dict); it must be a CompareSettings": lambda: evaluation.compare(
            NOWHERE, [NOWHERE], NOWHERE, settings={}  # type: ignore[arg-type]
        ),
        "bundles is 3 (int); it must be a path": lambda: evaluation.compare(NOWHERE, [3], NOWHERE),  # type: ignore[list-item]
        "progress is True (bool); it must be a function of (stage, done, total), or None": lambda: export.export_bundle(
            NOWHERE, NOWHERE, progress=True  # type: ignore[arg-type]
        ),
        "force is 'no' (str); it must be True or False": lambda: export.export_bundle(NOWHERE, NOWHERE, force="no"),  # type: ignore[arg-type]
        "RouterConfig: ratio: Input should be a valid number, unable to parse string as a number (got 'x')": (
            lambda: router.RouterConfig(ratio="x")  # type: ignore[arg-type]
        ),
        "bundle is a value (Odd); it must be a path": lambda: moir_edge.load(Odd()),  # type: ignore[arg-type]
    }  # fmt: skip
    for line, call in expected.items():
        with pytest.raises(DataError) as caught:
            call()
        assert str(caught.value) == line


def test_numbers_and_lists_of_numpy_and_generators_are_taken() -> None:
    settings = tuning.TuneSettings(seed=np.int64(3), epochs=np.float32(2), degrade=(x for x in ["blur=2px"]))  # type: ignore[arg-type]  # fmt: skip
    assert settings.record()["seed"] == 3
    assert type(settings.seed) is int
    assert type(settings.epochs) is float
    assert settings.degrade == ("blur=2px",)
    benched = evaluation.BenchSettings(bundles=["a", Path("b")], prompt_words=np.array([4, 5]))  # type: ignore[arg-type]
    assert benched.bundles == (Path("a"), Path("b"))
    assert benched.prompt_words == (4, 5)
    assert evaluation.BenchSettings(bundles="a").bundles == (Path("a"),)  # type: ignore[arg-type]
    assert metrics.vqa_accuracy("a", (x for x in ["a"] * 10)) == 1  # type: ignore[arg-type]
    assert switch("x", np.bool_(False)) is False
    assert integer("x", np.uint8(7)) == 7
    assert number("x", np.float16(0.5)) == 0.5
    assert strings("x", np.array(["a", "b"])) == ("a", "b")
    assert paths("x", "one") == (Path("one"),)


def test_checked_knows_its_function() -> None:
    with pytest.raises(ValueError, match="f has no parameter y"):

        @checked(y=integer)
        def f(x: int) -> int:
            return x

    @checked(x=integer)
    def g(x: int, y: int = 2) -> tuple[int, int]:
        """Say what it is given."""
        return x, y

    assert g(np.int64(1)) == (1, 2)  # type: ignore[arg-type]
    assert g.__doc__ == "Say what it is given."
    assert list(inspect.signature(g).parameters) == ["x", "y"]
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        g(1, z=3)  # type: ignore[call-arg]


def test_the_value_in_a_message_is_short_and_cannot_steer() -> None:
    line = str(wrong_type("x", "\x1b[2J" + "y" * 10_000, "a path"))
    assert line.startswith(r"x is '\x1b[2Jyyy")
    assert line.endswith("… (str); it must be a path")
    assert len(line) < 120
