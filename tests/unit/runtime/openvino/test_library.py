"""Importing OpenVINO: nothing is reported, and one line says what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import moir_edge
from moir_edge.errors import EnvironmentProblem
from moir_edge.runtime.openvino.library import cpu_text, load_openvino, settings_of


def _module(version: str, devices: list[str]) -> Any:
    core = SimpleNamespace(available_devices=devices)
    return SimpleNamespace(__version__=version, Core=lambda: core)


def test_a_missing_package_names_the_extra(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EnvironmentProblem) as caught:
        moir_edge.load(tiny_bundle, provider="openvino")
    assert str(caught.value) == (
        "this needs the package 'openvino', which is not installed; install it with `pip install 'moir-edge[openvino]'`"
    )


def test_a_broken_installation_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openvino.py").write_text("import _openvino_that_is_not_there\n")
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EnvironmentProblem) as caught:
        load_openvino()
    assert str(caught.value) == (
        "the Python module 'openvino' cannot be imported (No module named '_openvino_that_is_not_there'); "
        "install it anew with `pip install --force-reinstall 'moir-edge[openvino]'`"
    )


def test_an_old_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules, "openvino", _module("2025.4.1-20426-82bbf0292c5-releases/2025/4", ["CPU"])
    )
    with pytest.raises(EnvironmentProblem) as caught:
        load_openvino()
    assert str(caught.value) == (
        "OpenVINO 2025.4.1 is too old for these graphs, which need 2026.2 or later; "
        "upgrade it with `pip install -U 'moir-edge[openvino]'`"
    )


@pytest.mark.parametrize(("devices", "named"), [([], "no device"), (["GPU", "NPU"], "GPU, NPU")])
def test_a_cpu_without_a_plugin_is_refused(
    monkeypatch: pytest.MonkeyPatch, devices: list[str], named: str
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", _module("2026.4.1-1-x", devices))
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(EnvironmentProblem) as caught:
        load_openvino()
    assert str(caught.value) == (
        f"OpenVINO 2026.4.1 has no plugin for this CPU (riscv64; it offers {named}); run with `provider='cpu'`"
    )


def test_importing_reports_nothing_and_leaves_no_file(tmp_path: Path) -> None:
    code = (
        "import sys; from moir_edge.runtime.openvino.library import load_openvino; load_openvino(); "
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "HOME": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.rglob("*")) == []


def test_the_exact_mode_is_the_default_and_only_the_fast_one_rounds() -> None:
    exact, fast = (settings_of(fast=one, threads=3) for one in (False, True))
    assert exact["EXECUTION_MODE_HINT"] == "ACCURACY"
    assert fast == {**exact, "EXECUTION_MODE_HINT": "PERFORMANCE"}
    assert exact["INFERENCE_NUM_THREADS"] == 3


@pytest.mark.parametrize("key", ["flags", "Features"])
def test_a_cpu_is_told_by_its_instructions(tmp_path: Path, key: str) -> None:
    core = SimpleNamespace(get_property=lambda _, name: ["F"] if name.startswith("O") else "Chip")
    texts = []
    for instructions in ("b a", "a b", "a b c"):
        (tmp_path / "proc").mkdir(exist_ok=True)
        lines = f"processor\t: 0\n{key}\t\t: {instructions}\n\nprocessor\t: 1\n{key}\t\t: z\n"
        (tmp_path / "proc/cpuinfo").write_text(lines)
        texts.append(cpu_text(core, tmp_path))
    assert texts[0] == texts[1] != texts[2]
    assert texts[2].endswith("Chip F a b c")
    assert cpu_text(core, tmp_path / "nowhere").endswith("Chip F ")
