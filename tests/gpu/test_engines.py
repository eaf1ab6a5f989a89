"""Engines and ONNX Runtime's GPU providers on a real GPU, against the CPU; skipped, with the reason, where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import moir_edge
from moir_edge.demo import checkpoint_path, demo_rows
from moir_edge.errors import MoirEdgeError
from moir_edge.targets import TARGETS, Target
from moir_edge.tensorrt_api import device_compute_capability

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

ROWS = demo_rows("test", count=6, seed=1, tasks=("vqa", "caption"))


@pytest.fixture(scope="module")
def target() -> Target:
    """The target that this machine is."""
    capability = device_compute_capability()
    if capability is None:
        pytest.skip("no NVIDIA GPU here")
    for one in TARGETS.values():
        if one.compute_capability == capability:
            return one
    pytest.skip(f"no target of moir-edge has this GPU's SM {capability}")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, target: Target) -> Path:
    """The demo checkpoint in float32 with engines for this machine."""
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    pytest.importorskip(target.builder, reason=f"{target.builder} is not installed")
    from moir_edge.engines import add_engines
    from moir_edge.export import export_bundle

    output = tmp_path_factory.mktemp("gpu") / "bundle"
    export_bundle(checkpoint_path(), output, target="cpu", precision="fp32")
    return add_engines(output, target.name)


def _answers(model: Any, rows: Sequence[Any], **options: Any) -> Any:
    return model.generate(
        [row.prompt for row in rows],
        [list(row.images) for row in rows],
        context=[row.context for row in rows],
        max_new_tokens=24,
        **options,
    ).token_ids


@pytest.mark.parametrize("router", [True, False])
def test_engines_answer_as_the_cpu_does(bundle: Path, router: bool) -> None:
    engines = moir_edge.load(bundle)
    assert engines.sessions.provider == "tensorrt"
    expected = _answers(moir_edge.load(bundle, provider="cpu"), ROWS, router=router)
    for _ in range(2):  # the second time every decode step is a replay
        assert _answers(engines, ROWS, router=router) == expected


def test_engines_give_their_memory_back(bundle: Path) -> None:
    from moir_edge.runtime.tensorrt.cuda import Cuda

    cuda = Cuda()
    _answers(moir_edge.load(bundle, provider="tensorrt"), ROWS)
    free = cuda.free_bytes()
    for _ in range(3):
        _answers(moir_edge.load(bundle, provider="tensorrt"), ROWS)
    # What the driver keeps for itself may move by some MiB; one loading of the engines is more than that.
    assert free - cuda.free_bytes() < 16 << 20


@pytest.mark.parametrize("provider", ["cuda", "ort-tensorrt"])
def test_onnx_runtime_on_the_gpu_answers_as_the_cpu_does(bundle: Path, provider: Any) -> None:
    try:
        model = moir_edge.load(bundle, provider=provider)
    except MoirEdgeError as problem:
        pytest.skip(str(problem))
    assert _answers(model, ROWS) == _answers(moir_edge.load(bundle, provider="cpu"), ROWS)
