"""When the fused kernels are used, and what is said where they are not."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from typing import Any

import pytest
import torch

from moir_edge.errors import DataError, EnvironmentProblem
from moir_edge.router.fused import SWITCH, fused_obstacle, route_fused, stack_weights
from moir_edge.router.fused.weights import columns

EMBEDS = torch.zeros(1, 2, 24)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def obstacle(router: Any, embeds: torch.Tensor = EMBEDS) -> str | None:
    with torch.no_grad():
        return fused_obstacle(router, embeds)


def test_cpu_tensors_stay_with_torch(cases: Any) -> None:
    assert obstacle(cases.router()) == "inputs_embeds are on cpu, not on a CUDA device"


def test_training_and_gradients_stay_with_torch(cases: Any) -> None:
    expected = "gradients may be asked for: the kernels serve evaluation mode under torch.no_grad"
    assert fused_obstacle(cases.router(), EMBEDS) == expected
    assert obstacle(cases.router().train()) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"top_k": 9}, "top_k is 9; the kernels keep at most 8 sources"),
        ({"rank": 65}, "rank is 65; the kernels hold at most 64"),
    ],
)
def test_large_settings_stay_with_torch(cases: Any, settings: Any, expected: str) -> None:
    assert obstacle(cases.router(**settings)) == expected


def test_dtype_that_the_kernels_do_not_read(cases: Any) -> None:
    found = obstacle(cases.router(), EMBEDS.double())
    assert (
        found == "inputs_embeds are torch.float64; the kernels read float32, float16 and bfloat16"
    )


def test_switch_and_attribute(cases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    router = cases.router()
    router.fused = "off"
    assert obstacle(router) == "router.fused is 'off'"
    monkeypatch.setenv(SWITCH, "off")
    assert obstacle(router) == "MOIR_EDGE_FUSED_ROUTER=off"
    monkeypatch.setenv(SWITCH, "0")
    with pytest.raises(DataError, match="MOIR_EDGE_FUSED_ROUTER is '0'; expected 'auto' or 'off'"):
        obstacle(router)


def test_missing_triton_is_named_with_its_extra(
    cases: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "triton" else found(name)
    )
    reason = obstacle(cases.router())
    assert reason is not None
    assert "pip install 'moir-edge[fused]'" in reason


def test_the_switch_is_no_part_of_the_saved_router(cases: Any) -> None:
    router = cases.router()
    router.fused = "off"
    assert "fused" not in router.config.to_record()
    assert not any("fused" in name for name in router.state_dict())


def test_failing_kernel_is_one_line_with_the_remedy(cases: Any) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    inputs = [torch.from_numpy(item) for item in cases.inputs(1, 2, 3, 6)]
    with pytest.raises(EnvironmentProblem) as caught:
        route_fused(cases.router(), *inputs)
    assert str(caught.value).startswith("the fused router failed on cpu (")
    assert str(caught.value).endswith("set MOIR_EDGE_FUSED_ROUTER=off to route with torch")
    assert "\n" not in str(caught.value)


def test_routing_on_the_cpu_does_not_import_triton() -> None:
    code = (
        "import sys, torch; from moir_edge.router import RouterConfig, TokenRouter\n"
        "router = TokenRouter(RouterConfig(), 8).eval()\n"
        "at = torch.tensor([[0]])\n"
        "with torch.no_grad(): router(torch.zeros(1, 2, 8), at, at + 1, at == 0)\n"
        "print('triton' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False"]


def test_stacked_weights_are_kept_until_one_changes(cases: Any) -> None:
    router = cases.router(merge="interpolate")
    first = stack_weights(router)
    assert stack_weights(router) is first
    with torch.no_grad():
        router.text.blend.add_(0.5)
    second = stack_weights(router)
    assert second is not first
    assert torch.equal(second.blend[1], torch.tanh(router.text.blend))
    router.half()
    assert stack_weights(router).down.dtype == torch.float32


def test_stacked_weights_made_in_inference_mode_are_made_anew(cases: Any) -> None:
    with torch.inference_mode():
        router = cases.router()
    first = stack_weights(router)
    assert stack_weights(router) is not first
    assert torch.equal(stack_weights(router).up, first.up)


@pytest.mark.parametrize("merge", ["add", "concat", "interpolate"])
@pytest.mark.parametrize("direction", ["both", "auto", "text-to-image", "image-to-text"])
def test_columns_lie_where_the_kernels_look(cases: Any, merge: Any, direction: Any) -> None:
    router = cases.router(merge=merge, direction=direction)
    normal = stack_weights(router).normal
    width, key_at, own_at = columns(merge, direction, 8)
    assert normal.shape == (2, 24, width)
    for at, side in enumerate((router.image, router.text)):
        if hasattr(side, "query"):
            assert torch.equal(normal[at, :, :8], side.query.weight.T / 8**0.5)
        if hasattr(side, "key"):
            assert torch.equal(normal[at, :, key_at : key_at + 8], side.key.weight.T)
        if hasattr(side, "own"):
            assert torch.equal(normal[at, :, own_at : own_at + 8], side.own.weight.T)


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"
)
def test_tensorrt_rtx_takes_no_plugin_yet() -> None:
    """Why the kernels are in no engine (docs/fused-router.md); a release where this fails can have them."""
    import tensorrt_rtx

    with pytest.raises(ModuleNotFoundError, match=r"tensorrt_rtx_bindings\.plugin"):
        importlib.import_module("tensorrt_rtx.plugin")
    methods = dir(tensorrt_rtx.INetworkDefinition)
    assert not [name for name in methods if "plugin" in name]
    assert not hasattr(tensorrt_rtx, "IPluginV3QuickAOTBuild")
