"""One engine: what TensorRT refuses becomes one line; every call exists in the real module."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moir_edge.errors import BundleError, EnvironmentProblem
from moir_edge.runtime.tensorrt.cuda import Cuda
from moir_edge.runtime.tensorrt.engine import Engine, Scratch
from moir_edge.runtime.tensorrt.kernel_cache import KernelCache, cache_folder, kernel_cache_path
from moir_edge.runtime.tensorrt.memory import DeviceMemory

from ....tensorrt_surface.double import VERSIONS, load_surface, make_double
from .double import CudaDouble, PlanContext, trt_double


@pytest.fixture
def memory() -> DeviceMemory:
    return DeviceMemory(Cuda(CudaDouble()))


@pytest.fixture
def plan(tiny_bundle: Path, tmp_path: Path) -> Path:
    path = tmp_path / "embedding.engine"
    profiles = [{"input_ids": [(1, 1), (1, 8), (2, 16)]}]
    path.write_text(
        json.dumps(
            {"graph": str(tiny_bundle / "embedding.onnx"), "profiles": profiles, "stripped": False}
        )
    )
    return path


def _engine(memory: DeviceMemory, path: Path, *, rtx: bool = False) -> Engine:
    module = trt_double(memory.cuda._api, rtx=rtx)
    return Engine(module, path, memory, KernelCache(None))


def test_an_engine_computes_on_the_device(memory: DeviceMemory, plan: Path, reference: Any) -> None:
    context = _engine(memory, plan).context(0, Scratch(memory))
    ids = np.array([[3, 1, 4], [1, 5, 9]])
    for _ in range(2):
        outputs = context.run({"input_ids": memory.upload(ids)})
        (embeds,) = memory.download(outputs["inputs_embeds"])
        np.testing.assert_array_equal(embeds, reference.table[ids])
    handle = context._handle
    assert (handle.reshaped, handle.runs) == (1, 2)  # the same shape is told once


def test_activation_memory_is_shared_and_grows(memory: DeviceMemory, plan: Path) -> None:
    scratch = Scratch(memory)
    engine = _engine(memory, plan)
    first, second = engine.context(0, scratch), engine.context(0, scratch)
    for tokens in (2, 16, 4):  # the double refuses too little memory
        ids = memory.upload(np.zeros((2, tokens), np.int64))
        for context in (first, second, first):
            context.run({"input_ids": ids})
    memory.cuda.synchronize()


def test_a_file_that_is_no_engine_is_refused(memory: DeviceMemory, tmp_path: Path) -> None:
    path = tmp_path / "vision.engine"
    path.write_bytes(b"not a plan")
    with pytest.raises(BundleError, match=r"tensorrt 10.3.0 cannot load .*vision.engine: the plan is malformed"):  # fmt: skip
        _engine(memory, path)


def test_a_run_that_tensorrt_refuses_is_one_line(
    memory: DeviceMemory, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = _engine(memory, plan).context(0, Scratch(memory))
    monkeypatch.setattr(PlanContext, "execute_async_v3", lambda *_: False)
    with pytest.raises(EnvironmentProblem, match="embedding does not run: no reason was given"):
        context.run({"input_ids": memory.upload(np.zeros((1, 2), np.int64))})


def test_no_context_is_one_line(
    memory: DeviceMemory, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _engine(memory, plan)
    monkeypatch.setattr(engine.handle, "create_execution_context", lambda _: None, raising=False)
    with pytest.raises(EnvironmentProblem, match="embedding: no execution context"):
        engine.context(0, Scratch(memory))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_call_has_the_signature_of_the_real_tensorrt(
    version: str, plan: Path, memory: DeviceMemory
) -> None:
    trt = make_double(load_surface(version))
    engine, names = trt.ICudaEngine, {"input_ids": "INPUT", "inputs_embeds": "OUTPUT"}
    kinds = {"input_ids": trt.DataType.INT64, "inputs_embeds": trt.DataType.FLOAT}
    answers = {
        "get_tensor_name": lambda _, index: list(names)[index],
        "get_tensor_mode": lambda _, name: trt.TensorIOMode[names[name]],
        "get_tensor_dtype": lambda _, name: kinds[name],
    }
    for name, answer in answers.items():
        trt.answers["ICudaEngine", name] = answer
    handle = object.__new__(engine)
    handle.__dict__["_num_io_tensors"] = 2
    trt.answers["Runtime", "deserialize_cuda_engine"] = lambda *_: handle
    trt.answers["IExecutionContext", "infer_shapes"] = lambda _: []
    trt.answers["IExecutionContext", "get_tensor_shape"] = lambda *_: (1, 3, 8)
    context = Engine(trt, plan, memory, KernelCache(plan.with_name("kernels"))).context(
        0, Scratch(memory), replay=True
    )
    outputs = context.run({"input_ids": memory.upload(np.zeros((1, 3), np.int64))})
    assert (outputs["inputs_embeds"].shape, context.replays) == ((1, 3, 8), False)
    called = [(kind, name) for kind, name, _ in trt.calls]
    configured = ("ICudaEngine", "create_runtime_config") in called
    assert configured == (version != "10.3.0")
    order = [name for kind, name in called if kind == "IExecutionContext"]
    assert order == [
        *("set_optimization_profile_async", "set_input_shape", "infer_shapes"),
        *("update_device_memory_size_for_shapes", "get_tensor_shape"),
        *("set_tensor_address", "set_tensor_address", "set_device_memory", "execute_async_v3"),
    ]


def test_the_real_module_has_every_call_and_refuses_without_a_gpu(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    calls = {
        "Runtime": ("deserialize_cuda_engine",),
        "ICudaEngine": (
            "create_execution_context", "create_runtime_config", "get_tensor_dtype", "get_tensor_mode",
            "get_tensor_name", "get_tensor_profile_shape", "num_io_tensors",
        ),
        "IExecutionContext": (
            "execute_async_v3", "get_tensor_shape", "infer_shapes", "is_stream_capturable", "set_device_memory",
            "set_input_shape", "set_optimization_profile_async", "set_tensor_address",
            "update_device_memory_size_for_shapes",
        ),
        "IRuntimeConfig": (
            "create_runtime_cache", "cuda_graph_strategy", "set_execution_context_allocation_strategy",
            "set_runtime_cache",
        ),
        "IRuntimeCache": ("deserialize", "serialize"),
        "CudaGraphStrategy": ("WHOLE_GRAPH_CAPTURE",),
        "ExecutionContextAllocationStrategy": ("USER_MANAGED",),
        "TensorIOMode": ("OUTPUT",),
    }  # fmt: skip
    missing = [
        f"{kind}.{name}"
        for kind, names in calls.items()
        for name in names
        if not hasattr(getattr(trt, kind), name)
    ]
    assert not missing
    path = tmp_path / "router.engine"
    path.write_bytes(b"not an engine")
    with pytest.raises(BundleError, match=r"tensorrt_rtx [\d.]+ cannot load .*router.engine: .+"):
        Engine(trt, path, DeviceMemory(Cuda(CudaDouble())), KernelCache(None))


class _Cache:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.taken = False

    def serialize(self) -> bytes:
        return self.data

    def deserialize(self, data: bytes) -> bool:
        self.data, self.taken = data, True
        return True


class _Config:
    cache: Any = None

    def create_runtime_cache(self) -> _Cache:
        return _Cache(b"compiled")

    def set_runtime_cache(self, cache: Any) -> None:
        self.cache = cache


def test_kernels_are_written_whole_and_only_when_new(tmp_path: Path) -> None:
    path = tmp_path / "kernels" / "a.bin"
    first = KernelCache(path)
    first.attach(_Config())
    first.save()
    assert path.read_bytes() == b"compiled" + hashlib.sha256(b"compiled").digest()
    assert [entry.name for entry in path.parent.iterdir()] == ["a.bin"]
    written = path.stat().st_mtime_ns
    second, config = KernelCache(path), _Config()
    second.attach(config)
    second.save()
    assert config.cache.data == b"compiled"
    assert path.stat().st_mtime_ns == written


def test_damaged_kernels_never_reach_tensorrt_and_are_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    first = KernelCache(path)
    first.attach(_Config())
    first.save()
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(len(whole))]
    damaged += [
        whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
        for at in range(len(whole))
        for bit in range(8)
    ]
    for content in (*damaged, whole + b"\0", b"compiled"):
        path.write_bytes(content)
        cache, config = KernelCache(path), _Config()
        cache.attach(config)
        assert config.cache.taken is False
        cache.save()
        assert path.read_bytes() == whole
    path.unlink()
    os.mkfifo(path)  # opening it would never end
    KernelCache(path).attach(_Config())


def test_kernels_that_cannot_be_kept_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = KernelCache(tmp_path / "file" / "a.bin")
    cache.attach(_Config())
    cache.save()
    KernelCache(None).save()
    KernelCache(tmp_path / "x").attach(object())  # TensorRT proper compiles ahead of time


def test_kernels_lie_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = kernel_cache_path("a" * 64, "1.7")
    assert path == tmp_path / "moir-edge" / "kernels" / f"{'a' * 32}-1.7.bin"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(kernel_cache_path("a" * 64, "1.7")).startswith("/home/someone/.cache/moir-edge/")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert str(kernel_cache_path("a" * 64, "1.7")).startswith("/home/someone/.cache/moir-edge/")


def test_a_user_without_a_home_keeps_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert kernel_cache_path("a" * 64, "1.7") is None
    with pytest.raises(EnvironmentProblem, match="set XDG_CACHE_HOME to one"):
        cache_folder("ort-tensorrt")


def test_kernels_lie_in_a_folder_of_this_user_alone(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path / "kernels" / "a.bin")
    cache.attach(_Config())
    cache.save()
    assert stat.S_IMODE((tmp_path / "kernels").stat().st_mode) == 0o700
