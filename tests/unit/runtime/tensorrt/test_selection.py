"""Which engines are taken, and what each refusal says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import moir_edge
from moir_edge.bundle import Bundle, open_bundle
from moir_edge.errors import BundleError, EnvironmentProblem
from moir_edge.runtime.opening import _default
from moir_edge.runtime.tensorrt.selection import choose_engines

from .double import CudaDouble, add_plans, trt_double


@pytest.fixture
def rtx_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return add_plans(tiny_bundle, tmp_path / "bundle")


@pytest.fixture(autouse=True)
def rtx(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = trt_double(CudaDouble(), rtx=True)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    return module


def test_the_engines_of_this_gpu_are_taken(rtx_bundle: Path, rtx: Any) -> None:
    chosen = choose_engines(open_bundle(rtx_bundle), "8.9")
    assert chosen.trt is rtx
    assert set(chosen.entries) == {"vision", "embedding", "router", "decoder"}


def test_a_bundle_without_engines_names_the_command(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError) as info:
        choose_engines(open_bundle(tiny_bundle), "8.9")
    assert "has no tensorrt_rtx engine of the vision for this GPU's SM 8.9" in str(info.value)
    assert f"build it with `moir-edge build {tiny_bundle} --target rtx-40`" in str(info.value)


@pytest.mark.parametrize(
    ("sm", "message"),
    [
        ("12.0", r"was built for SM 8\.9, and this GPU is SM 12\.0; rebuild it with `.* --target rtx-50`"),
        ("8.7", r"was built by tensorrt_rtx, which tensorrt cannot load; rebuild it on this device with `.* --target jetson-orin-nano`"),
    ],
)  # fmt: skip
def test_engines_of_another_gpu_name_the_command(rtx_bundle: Path, sm: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        choose_engines(open_bundle(rtx_bundle), sm)


def test_a_component_without_engine_is_named(rtx_bundle: Path) -> None:
    bundle = open_bundle(rtx_bundle)
    engines = tuple(entry for entry in bundle.manifest.engines if entry.component != "router")
    partial = Bundle(bundle.path, bundle.manifest.model_copy(update={"engines": engines}))
    with pytest.raises(BundleError, match="has no tensorrt_rtx engine of the router"):
        choose_engines(partial, "8.9")


def test_a_gpu_that_no_target_has_is_told_what_to_use(rtx_bundle: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"no target of moir-edge has this GPU's SM 9\.9.*`provider='cuda'`"):  # fmt: skip
        choose_engines(open_bundle(rtx_bundle), "9.9")


def test_another_version_names_the_command(rtx_bundle: Path, rtx: Any) -> None:
    rtx.__version__ = "1.8.0"
    with pytest.raises(BundleError, match=r"was built by tensorrt_rtx 1\.7\.1, and this is 1\.8\.0; rebuild it with `moir-edge build"):  # fmt: skip
        choose_engines(open_bundle(rtx_bundle), "8.9")


def test_a_missing_module_names_the_extra(
    rtx_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'moir-edge\[rtx\]'"):
        choose_engines(open_bundle(rtx_bundle), "8.9")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Return a function that says which GPU the driver finds."""

    def set_gpu(capability: str | None) -> None:
        home = "moir_edge.runtime.tensorrt.selection"
        monkeypatch.setattr(f"{home}.device_compute_capability", lambda: capability)
        monkeypatch.setattr(f"{home}.load_cuda", CudaDouble)
        monkeypatch.setattr(
            "moir_edge.runtime.providers._available", lambda: ["CPUExecutionProvider"]
        )

    return set_gpu


@pytest.mark.parametrize(
    ("capability", "provider"), [("8.9", "tensorrt"), ("8.6", "cpu"), ("9.9", "cpu"), (None, "cpu")]
)
def test_engines_that_fit_are_the_default(
    rtx_bundle: Path, gpu: Callable[[str | None], None], capability: str | None, provider: str
) -> None:
    gpu(capability)
    assert _default(open_bundle(rtx_bundle)) == provider


def test_cuda_is_the_default_where_no_engine_fits(
    rtx_bundle: Path, gpu: Callable[[str | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu("8.6")
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("moir_edge.runtime.providers._available", lambda: both)
    monkeypatch.setattr("moir_edge.runtime.providers.cuda_problem", lambda: None)
    assert _default(open_bundle(rtx_bundle)) == "cuda"


def test_the_cpu_answers_a_bundle_with_engines_where_there_is_no_gpu(
    rtx_bundle: Path, gpu: Callable[[str | None], None]
) -> None:
    gpu(None)
    assert moir_edge.load(rtx_bundle, threads=1).sessions.provider == "cpu"
