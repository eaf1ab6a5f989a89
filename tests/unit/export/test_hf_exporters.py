"""The formats `moir_tensorrt` and `moir_tensorrt_rtx` in transformers' own registry."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import moir_edge.export  # noqa: F401  (registers the formats)
from moir_edge.errors import BundleError, DataError, UnsupportedError
from moir_edge.export.parity import PARITY_RTOL
from moir_edge.targets import TARGETS

FORMATS = {"moir_tensorrt": "jetson-orin-nano", "moir_tensorrt_rtx": "rtx-40"}
# Names that lead to the same formats as long as no other package has them.
SHORT = {"tensorrt": "moir_tensorrt", "tensorrt_rtx": "moir_tensorrt_rtx"}


def _output(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_package_imports_neither_torch_nor_transformers() -> None:
    code = "import moir_edge.export, sys; print([m for m in ('torch', 'transformers', 'onnx') if m in sys.modules])"
    assert _output(code) == "[]"


@pytest.mark.parametrize(
    "code",
    [
        "import moir_edge.export\nfrom transformers.exporters import AutoHfExporter",
        "from transformers.exporters import AutoHfExporter\nimport moir_edge.export",
    ],
)
def test_formats_are_found_whichever_import_comes_first(code: str) -> None:
    code += (
        "\nimport transformers.exporters.auto as auto, inspect"
        "\nprint([name for name in auto.EXPORT_BACKENDS if 'tensorrt' in name])"
        "\nprint(type(auto.__loader__).__name__, 'register_backend' in inspect.getsource(auto))"
    )
    assert _output(code).splitlines() == [
        "['moir_tensorrt', 'tensorrt', 'moir_tensorrt_rtx', 'tensorrt_rtx']",
        "SourceFileLoader True",
    ]


@pytest.mark.parametrize(("name", "target"), FORMATS.items())
def test_auto_classes_find_config_exporter_and_runner(name: str, target: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the exporter asks for it")
    from transformers.exporters import AutoExportConfig, AutoHfExporter
    from transformers.exporters.auto import get_runner_class

    config = AutoExportConfig.from_dict({"export_format": name, "target": target})
    assert (config.export_format, config.target, config.precision) == (name, target, "fp16")
    assert AutoHfExporter.from_config(config).export_format == name
    assert AutoHfExporter.from_config({"export_format": name}).config_class is type(config)
    assert get_runner_class(name).__name__ == "BundleRunner"


@pytest.mark.parametrize(("short", "name"), SHORT.items())
def test_short_name_gives_the_same_format(short: str, name: str) -> None:
    from transformers.exporters import AutoExportConfig, AutoHfExporter
    from transformers.exporters.auto import get_exporter_class

    config = AutoExportConfig.from_dict({"export_format": short, "target": FORMATS[name]})
    # what is saved is the name that no other package takes
    assert config.export_format == name
    assert get_exporter_class(short) is get_exporter_class(name)
    assert AutoHfExporter.from_config({"export_format": short}).export_format == name


FOREIGN = """
import logging
from dataclasses import dataclass
from transformers.exporters.auto import EXPORT_BACKENDS, register_backend
from transformers.exporters.base import HfExporter
from transformers.exporters.configs import ExportConfigMixin

@dataclass
class TheirConfig(ExportConfigMixin):
    export_format: str = "tensorrt"

class TheirExporter(HfExporter):
    export_format = "tensorrt"
    config_class = TheirConfig
"""
SHOW = """
from transformers.exporters import AutoExportConfig
print({name: found.exporter.__name__ for name, found in EXPORT_BACKENDS.items() if "tensorrt" in name})
ours = AutoExportConfig.from_dict({"export_format": "moir_tensorrt", "target": "jetson-thor"})
print(type(AutoExportConfig.from_dict({"export_format": "tensorrt"})).__name__, ours.export_format)
"""
REGISTER = "register_backend(TheirExporter)\n"
OURS = "import moir_edge.export\n"


@pytest.mark.parametrize(
    "code",
    [FOREIGN + REGISTER + OURS + SHOW, OURS + FOREIGN + REGISTER + SHOW],
    ids=["theirs first", "ours first"],
)
def test_name_that_another_package_took_stays_with_it(code: str) -> None:
    names, configs = _output(code).splitlines()
    assert ast.literal_eval(names) == {
        "tensorrt": "TheirExporter",
        "moir_tensorrt": "TensorRTExporter",
        "moir_tensorrt_rtx": "TensorRTRTXExporter",
        "tensorrt_rtx": "TensorRTRTXExporter",
    }
    assert configs == "TheirConfig moir_tensorrt"


def test_every_target_with_engines_belongs_to_one_format() -> None:
    from transformers.exporters import AutoExportConfig

    for target in TARGETS.values():
        if target.builder != "onnxruntime":
            AutoExportConfig.from_dict(
                {"export_format": f"moir_{target.builder}", "target": target.name}
            )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "the format moir_tensorrt_rtx needs a target; one of rtx-20, rtx-30"),
        ({"target": "jetson-thor"}, "moir_tensorrt_rtx has no target 'jetson-thor'"),
        ({"target": "rtx-41"}, "unknown target 'rtx-41': did you mean 'rtx-40'?"),
    ],
)
def test_config_refuses_targets_of_others(fields: dict[str, str], message: str) -> None:
    from transformers.exporters import AutoExportConfig

    with pytest.raises(UnsupportedError, match=message):
        AutoExportConfig.from_dict({"export_format": "moir_tensorrt_rtx", **fields})


def test_calibration_settings_survive_json(tmp_path: Path) -> None:
    import json

    from moir_edge.calibration import CalibrationSettings
    from moir_edge.export.hf_exporters import TensorRTConfig, _calibration

    data = tmp_path / "calib.jsonl"
    data.write_text("{}")
    given = {"data": str(data), "rows": 3, "evaluation": str(data)}
    config = TensorRTConfig(target="jetson-thor", precision="int8", calibration=given)
    fields = json.loads(config.to_json_string())["calibration"]
    assert _calibration(fields) == CalibrationSettings(data=data, rows=3, evaluation=data)
    assert _calibration(None) is None


@pytest.fixture(scope="module")
def routed(make_checkpoint: Callable[..., Path]) -> Any:
    """A tiny SmolVLM with a router, changed in memory after it was loaded."""
    from moir_edge.router import load_retrofitted

    model = load_retrofitted(make_checkpoint("smolvlm", router=True), dtype=torch.float32)
    with torch.no_grad():
        model.get_submodule("lm_head").weight.mul_(1.5)
    return model


@pytest.fixture(scope="module")
def inputs(routed: Any) -> dict[str, torch.Tensor]:
    """One image and none: the second row is padded on the left and has a black picture instead."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(routed.name_or_path)
    pictures = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pictures[1] = 0
    encoded = tokenizer(["<image>" * 4 + "What is it?", "Hm?"], padding=True, padding_side="left")
    return {
        "input_ids": torch.tensor(encoded["input_ids"]),
        "attention_mask": torch.tensor(encoded["attention_mask"]),
        "pixel_values": pictures,
    }


@pytest.fixture(scope="module")
def exported(routed: Any, inputs: dict[str, torch.Tensor]) -> Any:
    from transformers.exporters import AutoExportConfig, AutoHfExporter

    config = AutoExportConfig.from_dict(
        {
            "export_format": "moir_tensorrt",
            "target": "jetson-orin-nano",
            # The profile leaves fp32 out as a whole; component by component it is there, and exact.
            "component_precision": dict.fromkeys(("vision", "embedding", "decoder"), "fp32"),
        }
    )
    return AutoHfExporter.from_config(config).export_for_generation(routed, inputs, config)


def test_export_runs_as_the_model_in_memory(
    exported: Any, routed: Any, inputs: dict[str, torch.Tensor]
) -> None:
    with torch.no_grad():
        expected = routed(**inputs, logits_to_keep=1)
    got = exported(**inputs, pixel_attention_mask=torch.ones(2, 1, 32, 32))
    assert type(got) is type(expected)
    assert got.logits.shape == (2, 1, expected.logits.shape[-1])
    # the contract of float32 graphs against torch: other orders of sums
    bound = PARITY_RTOL * float(expected.logits.abs().max())
    torch.testing.assert_close(got.logits, expected.logits, rtol=0, atol=bound)


def test_saved_export_is_a_bundle_and_loads_again(
    exported: Any, inputs: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    from transformers.exporters import ExportedModel

    import moir_edge

    exported.save_pretrained(tmp_path / "saved")
    again = ExportedModel.from_pretrained(tmp_path / "saved", device="cpu", threads=1)
    assert torch.equal(again(**inputs).logits, exported(**inputs).logits)
    assert again.export_format == "moir_tensorrt"
    assert again.components["model"].metadata.export_config["target"] == "jetson-orin-nano"
    bundle = moir_edge.load(tmp_path / "saved" / "model.bundle")
    assert bundle.manifest.target == "jetson-orin-nano"
    assert bundle.sessions.has_router
    (tmp_path / "saved" / "model.bundle" / "decoder.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"decoder\.onnx"):
        ExportedModel.from_pretrained(tmp_path / "saved")


def test_tensorrt_says_where_engines_are_built(
    exported: Any, routed: Any, inputs: Any, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    from transformers.exporters import AutoExportConfig

    from moir_edge.export import hf_exporters

    assert exported.program.manifest.engines == ()
    monkeypatch.setattr(hf_exporters, "_export", lambda *_: exported.program.path)
    config = AutoExportConfig.from_dict({"export_format": "moir_tensorrt", "target": "jetson-thor"})
    with caplog.at_level(logging.WARNING):
        hf_exporters.TensorRTExporter().export(routed, inputs, config)
    assert "engines for jetson-orin-nano are built by TensorRT on the device" in caplog.text


def test_wrong_inputs_are_refused(exported: Any, routed: Any, inputs: Any) -> None:
    from moir_edge.export.hf_exporters import TensorRTConfig, TensorRTExporter

    config = TensorRTConfig(target="jetson-thor")
    exporter = TensorRTExporter()
    with pytest.raises(DataError, match="hold no input_ids"):
        exporter.export(routed, {"pixel_values": inputs["pixel_values"]}, config)
    with pytest.raises(UnsupportedError, match="multi_token_decode given"):
        exporter.export_for_generation(routed, inputs, config, multi_token_decode=True)
    right = torch.tensor([[1, 1, 0]])
    with pytest.raises(DataError, match="padded on the right"):
        exported(input_ids=torch.tensor([[5, 5, 0]]), attention_mask=right)
    with pytest.raises(DataError, match="1 image tiles for 0 places"):
        exported(input_ids=torch.tensor([[5, 6]]), pixel_values=inputs["pixel_values"][:1])
    with pytest.raises(DataError, match="give one of them"):
        exported.to("cpu", provider="cpu")


def test_a_model_from_nowhere_needs_a_processor(inputs: Any, routed: Any, monkeypatch: Any) -> None:
    from moir_edge.export.hf_exporters import TensorRTConfig, TensorRTExporter

    monkeypatch.setattr(routed, "name_or_path", "")
    monkeypatch.setattr(routed.config, "_name_or_path", "")
    with pytest.raises(DataError, match="processor=FOLDER"):
        TensorRTExporter().export(routed, inputs, TensorRTConfig(target="jetson-thor"))
