"""Diagnoses of three recorded machines, of this one, and of recorded ones that lack something."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from moir_edge.bundle import seal
from moir_edge.cli import main as cli
from moir_edge.cli.doctor import _print
from moir_edge.device.system import RecordedSystem
from moir_edge.doctor.diagnosis import Diagnosis, diagnose_machine
from moir_edge.doctor.extras import judge_extras
from moir_edge.runtime.cuda_start import CUDA_PACKAGE
from moir_edge.runtime.providers import Provider
from tests.unit.bundle.test_engines import _manifest
from tests.unit.device.recorded import MACHINES, installed, recording, system

ORIN, THOR, DESKTOP = "orin-nano-jetpack-6", "thor-jetpack-7", "desktop-rtx-4070"


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A bundle whose one graph is never opened."""
    folder = tmp_path / "bundle"
    (folder / "engines").mkdir(parents=True)
    for name in ("router.onnx", "router.data"):
        (folder / name).write_bytes(b"1")
    seal(folder, _manifest().model_copy(update={"engines": (), "target": "cpu"}))
    return folder


def of(name: str) -> Diagnosis:
    return diagnose_machine(system=system(name), installed=installed(name))


def ready(diagnosis: Diagnosis) -> list[str]:
    return [one.name for one in diagnosis.providers if one.ready]


def commands(diagnosis: Diagnosis) -> list[str | None]:
    return [one.command for one in diagnosis.findings]


def test_orin_nano_runs_engines_and_could_be_faster() -> None:
    found = of(ORIN)
    board = found.hardware.board
    assert board is not None
    assert (board.chip, board.module, board.l4t, board.jetpack) == (
        *("tegra234", "p3767-0005", "36.4.3", "6.2"),
    )
    assert board.tensorrt_package == "10.3.0.30-1+cuda12.5"
    assert found.hardware.cpu == "Cortex-A78AE"
    assert found.hardware.cpus == 6
    assert found.hardware.memory_bytes == 7_802_880 * 1024
    (gpu,) = found.hardware.gpus
    assert (gpu.name, gpu.memory_bytes, gpu.driver, gpu.cuda) == (
        *("Orin (nvgpu)", None, "540.4.0", "12.6"),
    )
    assert found.targets == ("jetson-orin-nano", "cpu")
    assert ready(found) == ["tensorrt", "cpu"]
    # PyPI's onnxruntime-gpu has no wheel for Python 3.10 on arm64, so that no command is given.
    cuda = next(one for one in found.providers if one.name == "cuda")
    assert "PyPI has no other for this Python on arm64" in cuda.reason
    assert cuda.command is None
    assert found.hardware.power is not None
    assert found.hardware.power.current == "25W"
    assert commands(found) == ["sudo nvpmodel -m 2", "sudo jetson_clocks"]
    assert found.healthy


def test_thor_lacks_jetpacks_packages() -> None:
    found = of(THOR)
    board = found.hardware.board
    assert board is not None
    assert (board.chip, board.module, board.l4t, board.jetpack, board.jetpack_package) == (
        *("tegra264", "p3834-0008", "38.2.0", "7.0", None),
    )
    assert found.hardware.cpu == "Neoverse V3AE"
    assert found.compute_capability == "11.0"
    assert found.targets == ("jetson-thor", "cpu")
    assert ready(found) == ["cpu"]
    assert commands(found) == ["sudo apt update && sudo apt install nvidia-jetpack"]
    # Python 3.12 has wheels with CUDA on arm64.
    assert [one.command for one in found.providers if one.name == "cuda"] == [CUDA_PACKAGE]


def test_desktop_has_bindings_newer_than_its_driver() -> None:
    found = of(DESKTOP)
    (gpu,) = found.hardware.gpus
    assert gpu.memory_bytes == 12282 << 20
    assert found.hardware.board is None
    assert found.targets == ("rtx-40", "cpu")
    assert ready(found) == ["cuda", "cpu"]
    assert commands(found) == ["pip install 'cuda-bindings<13'"]
    engines, _, compiled, *_ = found.providers
    assert engines.reason == "cuda-bindings 13.5.0 is newer than the driver, which runs CUDA 12"
    assert "libnvinfer.so.10 is not on the loader's path" in compiled.reason


def test_desktop_with_fitting_bindings_lacks_nothing() -> None:
    record = recording(DESKTOP)
    packages = {**record["installed"]["packages"], "cuda-bindings": "12.9.8"}
    commands_ = {**record["commands"], "ldconfig -p": "\tlibnvinfer.so.10 (libc6,x86-64) => /x\n"}
    found = diagnose_machine(
        system=RecordedSystem(record["files"], commands_),
        installed=installed(DESKTOP, packages=packages),
    )
    assert ready(found) == ["tensorrt", "cuda", "ort-tensorrt", "cpu"]
    assert found.findings == ()


def test_a_virtual_environment_that_does_not_see_jetpacks_tensorrt() -> None:
    packages = {**recording(ORIN)["installed"]["packages"]}
    del packages["tensorrt"]
    found = diagnose_machine(system=system(ORIN), installed=installed(ORIN, packages=packages))
    assert found.providers[0].reason == "tensorrt is not installed"
    assert (found.providers[0].command or "").startswith("python3 -m venv --system-site-packages")


@pytest.mark.parametrize(
    ("version", "reason", "command"),
    [
        (None, "openvino is not installed", "pip install 'moir-edge[openvino]'"),
        (
            "2025.4.1",
            "openvino 2025.4.1 is older than 2026.2",
            "pip install -U 'moir-edge[openvino]'",
        ),
        ("2026.4.1", "openvino 2026.4.1", None),
    ],
)
def test_openvino_and_its_version(version: str | None, reason: str, command: str | None) -> None:
    packages = {**recording(ORIN)["installed"]["packages"], "openvino": version}
    packages = {name: one for name, one in packages.items() if one is not None}
    found = diagnose_machine(system=system(ORIN), installed=installed(ORIN, packages=packages))
    for state in found.providers[-2:]:
        assert (state.ready, state.reason, state.command) == (command is None, reason, command)


def test_a_gpu_without_its_driver_and_one_of_no_target() -> None:
    record = recording(DESKTOP)
    bare = installed(DESKTOP, compute_capability=None, providers=["CPUExecutionProvider"])
    found = diagnose_machine(system=RecordedSystem(record["files"], {}), installed=bare)
    assert found.targets == ("cpu",)
    assert [(one.kind, one.command) for one in found.findings] == [
        ("missing", "sudo ubuntu-drivers install")
    ]
    hopper = diagnose_machine(
        system=system(DESKTOP), installed=installed(DESKTOP, compute_capability="9.0")
    )
    assert hopper.providers[0].reason == "no target has a GPU of SM 9.0"
    assert hopper.targets == ("cpu",)


def test_old_jetpack_and_large_module() -> None:
    release = "# R36 (release), REVISION: 3.0, GCID: 1, BOARD: generic, EABI: aarch64, DATE: x"
    tree = "nvidia,p3737-0000+p3701-0005\0nvidia,p3701-0005\0nvidia,tegra234\0nvidia,tegra23x"
    old = system(ORIN, __etc__nv_tegra_release=release, **{"__proc__device-tree__compatible": tree})
    found = diagnose_machine(system=old, installed=installed(ORIN))
    assert found.targets == ("jetson-agx-orin", "cpu")
    assert found.findings[0].what == (
        "JetPack 6.0 has a TensorRT that does not take these graphs; flash JetPack 6.1 or later"
    )


def test_broken_onnxruntime_runs_nothing() -> None:
    broken = replace(installed(THOR), providers=(), notes=("onnxruntime cannot be imported: x",))
    found = diagnose_machine(system=system(THOR), installed=broken)
    assert ready(found) == []
    assert not found.healthy
    cpu, openvino, _ = found.providers[-3:]
    assert cpu.reason == "onnxruntime cannot be imported: x"
    assert openvino.reason == f"it needs the cpu provider: {cpu.reason}"


@pytest.mark.parametrize("name", MACHINES)
def test_every_provider_is_judged_and_everything_is_json(name: str) -> None:
    found = of(name)
    assert {one.name for one in found.providers} == set(get_args(Provider))
    assert json.loads(json.dumps(found.to_dict()))["targets"][-1] == "cpu"


def test_this_machine(capsys: pytest.CaptureFixture[str], sealed: Path) -> None:
    assert cli.main(["doctor", str(sealed), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["hardware"]["memory_bytes"] > found["hardware"]["available_bytes"] > 0
    assert found["hardware"]["cpu"] != "unknown"
    assert found["installed"]["packages"]["onnxruntime"]
    assert next(one for one in found["providers"] if one["name"] == "cpu")["ready"]
    (bundle,) = found["bundles"]
    assert bundle["provider"] in ("cpu", "cuda")
    assert bundle["weight_bytes"] > 0
    assert cli.main(["doctor"]) == 0
    assert "cpu            yes" in capsys.readouterr().out


def test_people_see_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    _print(of(THOR))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("board        NVIDIA Jetson AGX Thor Developer Kit, JetPack 7.0 (")
    assert "power mode   MAXN" in lines
    at = lines.index("optional: cuda and ort-tensorrt")
    assert lines[at + 1] == f"  → {CUDA_PACKAGE}"
    assert lines.count("  → sudo apt update && sudo apt install nvidia-jetpack") == 1


def test_extras_follow_the_packages_own_metadata() -> None:
    requirements = [
        'starlette>=0.47; extra == "serve"',
        'cuda-bindings<13,>=12.8; python_version < "3.11" and extra == "tensorrt"',
        'cuda-bindings<14,>=12.8; python_version >= "3.11" and extra == "tensorrt"',
        'triton>=3.4; sys_platform == "linux" and extra == "fused"',
        'moir-edge[export]; extra == "fused"',
        'ruff>=0.14; extra == "dev"',
        "numpy>=1.26",
    ]
    found = judge_extras(installed(ORIN), requirements)
    assert [(one.name, one.missing) for one in found] == [
        ("serve", ("starlette",)),
        ("tensorrt", ()),
        ("fused", ("triton",)),
    ]
    windows = judge_extras(installed(ORIN, system="Windows 11"), requirements)
    assert "fused" not in [one.name for one in windows]


def test_what_is_not_a_bundle_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_doctor_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys\nfrom moir_edge.doctor.diagnosis import diagnose_machine\ndiagnose_machine()\n"
        "print([m for m in ('torch', 'transformers', 'onnx', 'tensorrt_rtx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
