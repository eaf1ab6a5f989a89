"""The checked wrapper: its messages, its order of work, and that the double has the real functions' signatures."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

import numpy as np
import pytest

from moir_edge.errors import EnvironmentProblem
from moir_edge.runtime.tensorrt.cuda import Cuda, load_cuda
from moir_edge.tensorrt_api import device_compute_capability

from .double import CudaDouble


def test_a_machine_without_driver_says_so() -> None:
    pytest.importorskip("cuda.bindings.runtime")
    if device_compute_capability() is not None:
        pytest.skip("there is a GPU here")
    # 35: a driver older than CUDA's runtime, which is how it calls none at all; 100: a driver without a GPU
    with pytest.raises(
        EnvironmentProblem, match=r"^cudaGetDeviceCount: .+`provider='cpu'`$"
    ) as info:
        Cuda()
    assert "\n" not in str(info.value)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'moir-edge\[rtx\]'"):
        load_cuda()


def test_the_double_takes_what_the_real_functions_take() -> None:
    real = pytest.importorskip("cuda.bindings.runtime")
    names = [name for name in vars(CudaDouble) if re.match(r"cuda[A-Z]\w+$", name)]
    functions = [name for name in names if callable(getattr(CudaDouble, name)) and name[4] != "_"]
    checked = 0
    for name in functions:
        found = getattr(real, name)
        if inspect.isclass(found):
            continue  # an enumeration
        signature = re.match(rf"{name}\((.*?)\)", found.__doc__.splitlines()[0])
        assert signature is not None, name
        theirs = [part for part in signature[1].split(",") if part.strip()]
        ours = list(inspect.signature(getattr(CudaDouble, name)).parameters)[1:]
        assert len(theirs) == len(ours), (name, theirs, ours)
        checked += 1
    assert checked >= 20
    kinds = real.cudaMemcpyKind
    assert {kind.name: int(kind) for kind in CudaDouble.cudaMemcpyKind}.items() <= {
        kind.name: int(kind) for kind in kinds
    }.items()
    assert int(real.cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor) == 75
    assert hasattr(real.cudaStreamCaptureMode, "cudaStreamCaptureModeThreadLocal")


def test_copies_arrive_when_they_are_waited_for() -> None:
    api = CudaDouble()
    cuda = Cuda(api)
    source = np.arange(12, dtype=np.float32)
    result = np.zeros(12, np.float32)
    first, second = cuda.allocate(48), cuda.allocate(48)
    cuda.upload(first, source)
    cuda.copy(second, first, 48)
    cuda.download(result, second)
    assert not result.any()
    cuda.synchronize()
    np.testing.assert_array_equal(result, source)


def test_rows_are_copied_with_their_spacing() -> None:
    cuda = Cuda(CudaDouble())
    source = np.arange(24, dtype=np.int64).reshape(4, 6)
    target = np.zeros((4, 3), np.int64)
    first, second = cuda.allocate(source.nbytes), cuda.allocate(target.nbytes)
    cuda.upload(first, source)
    cuda.clear(second, target.nbytes)
    cuda.copy_2d((second + 8, 24), (first + 16, 48), width=16, height=4)
    cuda.download(target, second)
    cuda.synchronize()
    np.testing.assert_array_equal(target[:, 1:], source[:, 2:4])
    assert not target[:, 0].any()


def test_recorded_work_runs_when_replayed() -> None:
    api = CudaDouble()
    cuda = Cuda(api)
    address = cuda.allocate(256)
    recording = cuda.capture(lambda: cuda.clear(address, 256))
    cuda.synchronize()
    assert api.device(address, 256).all()
    cuda.replay(recording)
    cuda.synchronize()
    assert not api.device(address, 256).any()
    del recording
    assert not api.graphs


def test_a_failed_recording_leaves_the_stream_usable() -> None:
    api = CudaDouble()
    cuda = Cuda(api)
    with pytest.raises(EnvironmentProblem, match="cudaMalloc: operation not permitted"):
        cuda.capture(lambda: cuda.allocate(8) and None)
    assert api.recorded is None
    cuda.synchronize()


def test_exhausted_memory_says_what_helps() -> None:
    cuda = Cuda(CudaDouble(memory_bytes=1024))
    with pytest.raises(EnvironmentProblem, match="cudaMalloc: out of memory; free memory on the"):
        cuda.allocate(2048)


def test_the_compute_capability_is_written_as_nvidia_does() -> None:
    assert Cuda(CudaDouble(sm=120)).compute_capability == "12.0"


class _NoDevice(CudaDouble):
    def cudaGetDeviceCount(self) -> tuple[int, Any]:  # noqa: N802
        return 0, 0


def test_no_visible_gpu_is_refused() -> None:
    with pytest.raises(
        EnvironmentProblem, match="CUDA sees no GPU here; run with `provider='cpu'`"
    ):
        Cuda(_NoDevice())
