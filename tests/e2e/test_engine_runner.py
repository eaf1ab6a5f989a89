"""The demo checkpoint through the engine runner, on CPU doubles of CUDA and TensorRT that compute its real graphs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from moir_edge import load
from moir_edge.cli.main import main
from moir_edge.demo import demo_rows

from ..unit.runtime.tensorrt.double import CudaDouble, add_plans, trt_double


@pytest.mark.parametrize("piece", [None, 13])
def test_the_demo_answers_as_on_the_cpu(
    demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int | None
) -> None:
    cuda = CudaDouble(sm=87)
    monkeypatch.setitem(sys.modules, "tensorrt", trt_double(cuda, rtx=False))
    monkeypatch.setattr("moir_edge.runtime.tensorrt.cuda.load_cuda", lambda: cuda)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = add_plans(demo_bundle, tmp_path / "bundle", rtx=False, sm="8.7", piece=piece)
    rows = demo_rows(
        "test", count=6, seed=1, tasks=("vqa", "caption")
    )  # six: a group of four and one of two
    prompts, images = [row.prompt for row in rows], [list(row.images) for row in rows]
    for router in (True, False):
        ours, theirs = (
            load(demo_bundle if provider == "cpu" else bundle, provider=provider).generate(
                prompts,
                images,
                context=[row.context for row in rows],
                max_new_tokens=24,
                router=router,
            )
            for provider in ("tensorrt", "cpu")
        )
        assert ours.token_ids == theirs.token_ids
    assert cuda.replays > 0


def test_run_without_a_driver_is_one_line(
    demo_bundle: Path, demo_image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cuda.bindings.runtime")
    from moir_edge.tensorrt_api import device_compute_capability

    if device_compute_capability() is not None:
        pytest.skip("there is a GPU here")
    words = ["run", str(demo_bundle), "-i", str(demo_image), "-p", "how many digits are there ?"]
    assert main([*words, "--provider", "tensorrt"]) == 2
    loading, error = capsys.readouterr().err.splitlines()
    assert loading == "run: loading"
    assert error.startswith("error: cudaGetDeviceCount: ")
    assert error.endswith("or run with --provider cpu")
    assert main([*words, "--json"]) == 0  # the bundle has engines, this machine has no GPU for them
    answer = json.loads(capsys.readouterr().out)
    assert (answer["provider"], answer["device_memory_bytes"]) == ("cpu", {})
    assert answer["backend"].startswith("ONNX Runtime ")
