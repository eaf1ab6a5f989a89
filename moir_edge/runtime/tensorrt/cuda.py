"""CUDA's runtime by NVIDIA's `cuda-bindings`: one device, one stream, every return code checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from moir_edge.errors import EnvironmentProblem

__all__ = ["Cuda", "Recording", "load_cuda"]

_NON_BLOCKING = 1  # cudaStreamNonBlocking: the stream does not wait for the default stream


def load_cuda() -> Any:
    """Import `cuda.bindings.runtime`.

    Raises:
        EnvironmentProblem: `cuda-bindings` is not installed, or does not load.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise EnvironmentProblem(
            f"TensorRT engines need the package cuda-bindings ({error}); install it with "
            "`pip install 'moir-edge[rtx]'` on a desktop, `pip install 'moir-edge[tensorrt]'` on a Jetson"
        ) from error
    return runtime


class Cuda:
    """The first visible GPU (`CUDA_VISIBLE_DEVICES` chooses) and the one stream that all work is queued on.

    Addresses are plain integers. Copies and launches return before they are done; `synchronize` waits.

    Args:
        api: `cuda.bindings.runtime`, or what stands in for it.

    Raises:
        EnvironmentProblem: There is no driver, no GPU, or the driver is too old.
    """

    _stream: Any = None

    def __init__(self, api: Any = None) -> None:
        self._api = load_cuda() if api is None else api
        if not self._call("cudaGetDeviceCount"):
            raise EnvironmentProblem("CUDA sees no GPU here; run with `provider='cpu'`")
        self._call("cudaSetDevice", 0)
        self._stream = self._call("cudaStreamCreateWithFlags", _NON_BLOCKING)
        self._in_flight: list[npt.NDArray[Any]] = []

    def __del__(self) -> None:
        if self._stream is not None:
            self._api.cudaStreamDestroy(self._stream)

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT takes it."""
        return int(self._stream)

    @property
    def compute_capability(self) -> str:
        """The GPU's SM as NVIDIA writes it, ``"8.9"``."""
        names = ("cudaDevAttrComputeCapabilityMajor", "cudaDevAttrComputeCapabilityMinor")
        attributes = [getattr(self._api.cudaDeviceAttr, name) for name in names]
        figures = [self._call("cudaDeviceGetAttribute", one, 0) for one in attributes]
        return ".".join(map(str, figures))

    def free_bytes(self) -> int:
        """Return the device memory that is free now; on a Jetson it is the board's."""
        free, _total = self._call("cudaMemGetInfo")
        return int(free)

    def allocate(self, nbytes: int) -> int:
        """Return the address of new device memory, aligned to 256 bytes at least."""
        return int(self._call("cudaMalloc", nbytes))

    def free(self, address: int) -> None:
        """Give device memory back; waits for the device."""
        self._call("cudaFree", address)

    def allocate_pinned(self, nbytes: int) -> int:
        """Return the address of new page-locked host memory, which the device reads by itself."""
        return int(self._call("cudaMallocHost", nbytes))

    def free_pinned(self, address: int) -> None:
        """Give page-locked memory back."""
        self._call("cudaFreeHost", address)

    def upload(self, address: int, array: npt.NDArray[Any]) -> None:
        """Queue a copy of a contiguous host array to the device; the array is kept alive until it is done."""
        self._in_flight.append(array)
        self._copy(address, array.ctypes.data, array.nbytes, "HostToDevice")

    def download(self, array: npt.NDArray[Any], address: int) -> None:
        """Queue a copy from the device into a contiguous host array, which holds it after `synchronize`."""
        self._in_flight.append(array)
        self._copy(array.ctypes.data, address, array.nbytes, "DeviceToHost")

    def copy(self, destination: int, source: int, nbytes: int) -> None:
        """Queue a copy within the device."""
        self._copy(destination, source, nbytes, "DeviceToDevice")

    def copy_2d(
        self, destination: tuple[int, int], source: tuple[int, int], width: int, height: int
    ) -> None:
        """Queue a copy of equally spaced rows within the device.

        Args:
            destination: Address of the first row, and bytes from one row to the next.
            source: The same of the source.
            width: Bytes per row.
            height: Rows.
        """
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        where = (*destination, *source, width, height)
        self._call("cudaMemcpy2DAsync", *where, kind, self._stream)

    def clear(self, address: int, nbytes: int) -> None:
        """Queue filling device memory with zeros."""
        self._call("cudaMemsetAsync", address, 0, nbytes, self._stream)

    def synchronize(self) -> None:
        """Wait until everything that was queued is done."""
        self._call("cudaStreamSynchronize", self._stream)
        self._in_flight.clear()

    def capture(self, work: Callable[[], None]) -> Recording:
        """Record what `work` queues, without running it, as a CUDA graph.

        Raises:
            EnvironmentProblem: Something in `work` cannot be recorded. The stream is fit for use again.
        """
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BaseException:
            self._api.cudaStreamEndCapture(self._stream)  # an error by now: the capture is void
            self._api.cudaGetLastError()
            raise
        graph = self._call("cudaStreamEndCapture", self._stream)
        try:
            return Recording(self._api, self._call("cudaGraphInstantiate", graph, 0))
        finally:
            self._call("cudaGraphDestroy", graph)

    def replay(self, recording: Recording) -> None:
        """Queue what was recorded, on the same addresses."""
        self._call("cudaGraphLaunch", recording.handle, self._stream)

    def _copy(self, destination: int, source: int, nbytes: int, direction: str) -> None:
        kind = getattr(self._api.cudaMemcpyKind, f"cudaMemcpy{direction}")
        self._call("cudaMemcpyAsync", destination, source, nbytes, kind, self._stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call one function; return nothing, its one result, or the tuple of them."""
        status, *results = getattr(self._api, name)(*arguments)
        if int(status) != 0:
            self._api.cudaGetLastError()  # else the next call would report this error again
            raise EnvironmentProblem(f"{name}: {self._text(status)}{_remedy(status)}")
        return results[0] if len(results) == 1 else tuple(results)

    def _text(self, status: Any) -> str:
        failed, text = self._api.cudaGetErrorString(status)
        return str(status) if int(failed) else bytes(text).decode()


class Recording:
    """An executable CUDA graph, given back when nothing refers to it any more.

    Args:
        api: Where it came from.
        handle: The executable graph.
    """

    def __init__(self, api: Any, handle: Any) -> None:
        self._api = api
        self.handle = handle

    def __del__(self) -> None:
        self._api.cudaGraphExecDestroy(self.handle)


# What helps, by CUDA's error number.
_REMEDIES = {
    2: "; free memory on the GPU, or give a shorter prompt or a smaller batch",
    35: "; install NVIDIA's driver, or for an older driver `pip install 'cuda-bindings<13'`, or run with `provider='cpu'`",
    100: "; run with `provider='cpu'`",
}


def _remedy(status: Any) -> str:
    return _REMEDIES.get(int(status), "")
