"""CUDA and TensorRT on a CPU: the calls of the real modules, memory that is really moved, graphs that ONNX Runtime really computes.

`CudaDouble` stands in for `cuda.bindings.runtime`: device memory is separate from the host's and starts out as NaN, work is queued
and done no sooner than somebody waits for it, graphs are recorded and replayed. `trt_double` stands in for `tensorrt` or
`tensorrt_rtx`; its engine files name an ONNX graph and the ranges of its inputs.
"""

from __future__ import annotations

import bisect
import ctypes
import json
import math
import shutil
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from moir_edge.bundle import EngineEntry, open_bundle, seal
from moir_edge.bundle.engines import component_sha256
from moir_edge.bundle.profiles import component_profiles

INVALID, OUT_OF_MEMORY, NOT_CAPTURABLE = 1, 2, 900


class Kind(IntEnum):
    cudaMemcpyHostToDevice = 1  # noqa: N815
    cudaMemcpyDeviceToHost = 2  # noqa: N815
    cudaMemcpyDeviceToDevice = 3  # noqa: N815


class CudaDouble:
    """The functions of `cuda.bindings.runtime` that the runner calls; like those they return a status first."""

    cudaMemcpyKind = Kind  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815
    cudaDeviceAttr = SimpleNamespace(  # noqa: N815
        cudaDevAttrComputeCapabilityMajor=75, cudaDevAttrComputeCapabilityMinor=76
    )

    def __init__(self, sm: int = 89, memory_bytes: int = 1 << 30) -> None:
        self.sm = sm
        self.memory_bytes = memory_bytes
        self.blocks: dict[int, np.ndarray] = {}
        self.pinned: dict[int, Any] = {}
        self.queue: list[Callable[[], None]] = []
        self.recorded: list[Callable[[], None]] | None = None
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.copies: list[tuple[Kind, int]] = []
        self.replays = 0
        self.mallocs = 0
        self._next = 1 << 40

    def cudaGetDeviceCount(self) -> tuple[int, int]:  # noqa: N802
        return 0, 1

    def cudaSetDevice(self, device: int) -> tuple[int]:  # noqa: N802
        return (0 if device == 0 else INVALID,)

    def cudaDeviceGetAttribute(self, attr: int, device: int) -> tuple[int, int]:  # noqa: N802
        return 0, divmod(self.sm, 10)[attr - 75]

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:  # noqa: N802
        texts = {OUT_OF_MEMORY: b"out of memory", NOT_CAPTURABLE: b"operation not permitted when stream is capturing"}  # fmt: skip
        return 0, texts.get(error, b"invalid argument")

    def cudaGetLastError(self) -> tuple[int]:  # noqa: N802
        return (0,)

    def cudaMemGetInfo(self) -> tuple[int, int, int]:  # noqa: N802
        return 0, self.memory_bytes - self.used_bytes, self.memory_bytes

    @property
    def used_bytes(self) -> int:
        return sum(block.nbytes for block in self.blocks.values())

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:  # noqa: N802
        return 0, 7

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:  # noqa: N802
        return (0,)

    def cudaMalloc(self, size: int) -> tuple[int, int]:  # noqa: N802
        if self.recorded is not None:
            return NOT_CAPTURABLE, 0
        if size > self.memory_bytes - self.used_bytes:
            return OUT_OF_MEMORY, 0
        address = self._next
        self._next += -(-size // 256) * 256 + 4096
        self.blocks[address] = np.full(size, 0xFF, np.uint8)  # as float32: NaN
        self.mallocs += 1
        return 0, address

    def cudaFree(self, dev_ptr: int) -> tuple[int]:  # noqa: N802
        self._run()
        del self.blocks[dev_ptr]
        return (0,)

    def cudaMallocHost(self, size: int) -> tuple[int, int]:  # noqa: N802
        buffer = (ctypes.c_byte * size)()
        self.pinned[ctypes.addressof(buffer)] = buffer
        return 0, ctypes.addressof(buffer)

    def cudaFreeHost(self, ptr: int) -> tuple[int]:  # noqa: N802
        self._run()
        del self.pinned[ptr]
        return (0,)

    def device(self, address: int, nbytes: int) -> np.ndarray:
        """Return device memory as bytes; one block must hold all of them."""
        starts = sorted(self.blocks)
        base = starts[bisect.bisect_right(starts, address) - 1]
        offset = address - base
        assert 0 <= offset <= offset + nbytes <= self.blocks[base].nbytes, "out of bounds"
        return self.blocks[base][offset : offset + nbytes]

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Kind, stream: int) -> tuple[int]:  # noqa: N802  # fmt: skip
        def copy() -> None:
            self.copies.append((kind, count))
            if kind == Kind.cudaMemcpyHostToDevice:
                self.device(dst, count)[:] = np.frombuffer(ctypes.string_at(src, count), np.uint8)
            elif kind == Kind.cudaMemcpyDeviceToHost:
                ctypes.memmove(dst, self.device(src, count).tobytes(), count)
            else:
                self.device(dst, count)[:] = self.device(src, count).copy()

        return self._enqueue(copy)

    def cudaMemcpy2DAsync(  # noqa: N802
        self, dst: int, dpitch: int, src: int, spitch: int, width: int, height: int, kind: Kind, stream: int
    ) -> tuple[int]:  # fmt: skip
        if width > min(dpitch, spitch) or kind != Kind.cudaMemcpyDeviceToDevice:
            return (INVALID,)

        def copy() -> None:
            self.copies.append((kind, width * height))
            for row in range(height):
                self.device(dst + row * dpitch, width)[:] = self.device(src + row * spitch, width)

        return self._enqueue(copy)

    def cudaMemsetAsync(self, dev_ptr: int, value: int, count: int, stream: int) -> tuple[int]:  # noqa: N802  # fmt: skip
        return self._enqueue(lambda: self.device(dev_ptr, count).fill(value))

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:  # noqa: N802
        if self.recorded is not None:
            return (NOT_CAPTURABLE,)
        self._run()
        return (0,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:  # noqa: N802
        self.recorded = []
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int]:  # noqa: N802
        recorded, self.recorded = self.recorded, None
        assert recorded is not None
        self.graphs[len(self.graphs)] = recorded
        return 0, len(self.graphs) - 1

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:  # noqa: N802
        return 0, graph

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:  # noqa: N802
        return (0,)

    def cudaGraphExecDestroy(self, graph_exec: int) -> tuple[int]:  # noqa: N802
        self._run()
        del self.graphs[graph_exec]
        return (0,)

    def cudaGraphLaunch(self, graph_exec: int, stream: int) -> tuple[int]:  # noqa: N802
        self.replays += 1
        for operation in self.graphs[graph_exec]:
            self._enqueue(operation)
        return (0,)

    def _enqueue(self, operation: Callable[[], None]) -> tuple[int]:
        (self.queue if self.recorded is None else self.recorded).append(operation)
        return (0,)

    def _run(self) -> None:
        while self.queue:
            self.queue.pop(0)()

    def enqueue_engine(self, operation: Callable[[], None]) -> None:
        self._enqueue(operation)


class Logger:
    ERROR, INTERNAL_ERROR = "error", "internal error"

    def __init__(self) -> None:
        pass

    def log(self, severity: str, message: str) -> None:
        raise NotImplementedError


def trt_double(cuda: CudaDouble, *, rtx: bool, capturable: bool = True) -> Any:
    """Return the module: `tensorrt` 10.3, or `tensorrt_rtx`, which replays by itself and keeps compiled kernels."""
    module = SimpleNamespace(
        __version__="1.7.1" if rtx else "10.3.0",
        ILogger=Logger,
        TensorIOMode=SimpleNamespace(INPUT="input", OUTPUT="output"),
        ExecutionContextAllocationStrategy=SimpleNamespace(STATIC=0, USER_MANAGED=2),
        Refitter=Refitter,
        OnnxParserRefitter=OnnxParserRefitter,
        Runtime=lambda log: Runtime(log, cuda, rtx, capturable),
    )
    if rtx:
        module.ComputeCapability = SimpleNamespace()
        module.CudaGraphStrategy = SimpleNamespace(DISABLED=0, WHOLE_GRAPH_CAPTURE=1)
    return module


class Runtime:
    def __init__(self, log: Any, cuda: CudaDouble, rtx: bool, capturable: bool) -> None:
        self.log, self.cuda, self.rtx, self.capturable = log, cuda, rtx, capturable

    def deserialize_cuda_engine(self, data: Any) -> Any:
        try:
            plan = json.loads(bytes(data))
        except ValueError:
            self.log.log(Logger.ERROR, "the plan is\nmalformed")
            return None
        return (RtxEngine if self.rtx else PlanEngine)(self, plan)


class Refitter:
    def __init__(self, engine: PlanEngine, log: Any) -> None:
        self.engine, self.graph = engine, ""

    def refit_cuda_engine(self) -> bool:
        self.engine.stripped = not self.graph
        return bool(self.graph)


class OnnxParserRefitter:
    num_errors = 0

    def __init__(self, refitter: Refitter, log: Any) -> None:
        self.refitter = refitter

    def refit_from_file(self, path: str) -> bool:
        self.refitter.graph = path
        return path == self.refitter.engine.graph


class PlanEngine:
    refittable = True

    def __init__(self, runtime: Runtime, plan: dict[str, Any]) -> None:
        self.log, self.cuda, self.capturable = runtime.log, runtime.cuda, runtime.capturable
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            plan["graph"], options, providers=["CPUExecutionProvider"]
        )
        self.profiles: list[dict[str, Any]] = plan["profiles"]
        self.graph, self.stripped = plan["graph"], plan["stripped"]
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = {value.name: value for value in self.session.get_outputs()}
        self.names = [*self.inputs, *self.outputs]
        self.num_io_tensors = len(self.names)
        self.contexts: list[PlanContext] = []

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in self.inputs else "output"

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        kind = ({**self.inputs, **self.outputs})[name].type
        names = {"tensor(float)": "FLOAT", "tensor(int64)": "INT64", "tensor(bool)": "BOOL"}
        return SimpleNamespace(name=names[kind])

    def numpy_type(self, name: str) -> np.dtype[Any]:
        kinds = {"FLOAT": np.float32, "INT64": np.int64, "BOOL": np.bool_}
        return np.dtype(kinds[self.get_tensor_dtype(name).name])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self.profiles[profile][name]]

    def create_execution_context(self, strategy: int) -> PlanContext:
        assert strategy == 2, "activation memory is the runner's"
        self.contexts.append(PlanContext(self, replays=False))
        return self.contexts[-1]


class RtxEngine(PlanEngine):
    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_execution_context(self, config: Any) -> PlanContext:
        assert config.strategy == 2, "activation memory is the runner's"
        assert config.cache is not None
        config.cache.kernels += b"k"
        self.contexts.append(PlanContext(self, replays=config.cuda_graph_strategy == 1))
        return self.contexts[-1]


class RuntimeConfig:
    def __init__(self) -> None:
        self.cuda_graph_strategy, self.strategy, self.cache = 0, 0, None

    def set_execution_context_allocation_strategy(self, strategy: int) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: Any) -> bool:
        self.cache = cache
        return True


class RuntimeCache:
    def __init__(self) -> None:
        self.kernels = b""

    def serialize(self) -> bytes:
        return self.kernels

    def deserialize(self, blob: bytes) -> bool:
        if blob.startswith(b"foreign"):
            return False
        self.kernels = blob
        return True


class PlanContext:
    """Refuses whatever the API forbids, then computes the graph from and into device memory."""

    def __init__(self, engine: PlanEngine, *, replays: bool) -> None:
        self.engine, self.replays = engine, replays
        self.profile: int | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.needed: int | None = None
        self.memory = (0, -1)
        self.warm = False
        self.runs = 0
        self.reshaped = 0

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        return profile < len(self.engine.profiles)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None
        smallest, _, largest = self.engine.get_tensor_profile_shape(name, self.profile)
        bounds = zip(smallest, shape, largest, strict=True)
        if not all(low <= size <= high for low, size, high in bounds):
            return False
        self.shapes[name] = tuple(shape)
        self.needed, self.memory, self.warm = None, (0, -1), False
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.inputs if name not in self.shapes]

    def update_device_memory_size_for_shapes(self) -> int:
        self.reshaped += 1
        self.needed = 16 * sum(math.prod(shape) for shape in self.shapes.values())
        return self.needed

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % 256 == 0
        self.engine.cuda.device(memory, size)  # exists
        self.memory = (memory, size)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        feeds = {key: np.zeros(shape, self.engine.numpy_type(key)) for key, shape in self.shapes.items()}  # fmt: skip
        return tuple(self.engine.session.run([name], feeds)[0].shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return memory != 0 and memory % 256 == 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == 7
        assert not self.engine.stripped, "the engine has no weights"
        assert self.needed is not None, "activation sizes not updated for these shapes"
        assert self.memory[1] >= self.needed, "too little activation memory"
        assert set(self.addresses) == set(self.engine.names), "an address is missing"
        cuda = self.engine.cuda
        if cuda.recorded is not None and not (self.engine.capturable and self.warm):
            self.engine.log.log(Logger.ERROR, "cannot be captured")
            return False
        self.warm = True
        cuda.enqueue_engine(self._work(dict(self.shapes), dict(self.addresses)))
        return True

    def _work(
        self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]
    ) -> Callable[[], None]:
        engine, scratch = self.engine, self.memory

        def work() -> None:
            self.runs += 1
            engine.cuda.device(*scratch).fill(0xFF)
            feeds = {}
            for name, shape in shapes.items():
                dtype = engine.numpy_type(name)
                nbytes = math.prod(shape) * dtype.itemsize
                raw = engine.cuda.device(addresses[name], nbytes).tobytes()
                feeds[name] = np.frombuffer(raw, dtype).reshape(shape)
            for name, value in zip(engine.outputs, engine.session.run(None, feeds), strict=True):
                raw = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
                engine.cuda.device(addresses[name], raw.nbytes)[:] = raw

        return work


def add_plans(
    bundle: Path,
    output: Path,
    *,
    rtx: bool = True,
    sm: str = "8.9",
    piece: int | None = None,
    stripped: bool = False,
) -> Path:
    """Copy a bundle and give it engine files for the doubles, listed as real ones are.

    Args:
        bundle: A bundle without engines.
        output: Where the copy goes.
        rtx: For `tensorrt_rtx` or `tensorrt`.
        sm: Compute capability.
        piece: Tokens that the decoder takes at once; the real builder's limit by default.
        stripped: Leave the weights to the graphs.
    """
    shutil.copytree(bundle, output)
    manifest = open_bundle(output, verify=False).manifest
    target = "rtx-40" if rtx else "jetson-orin-nano"
    folder = output / "engines" / target
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for name, component in manifest.components.items():
        profiles = [
            {spec.name: profile.sizes(spec.name, spec.shape) for spec in component.inputs}
            for profile in component_profiles(name, manifest.model)
        ]
        if name == "decoder" and piece:
            for key in ("inputs_embeds", "position_ids"):
                low, usual, high = profiles[0][key]
                profiles[0][key] = (low, _cut(usual, piece), _cut(high, piece))
        plan = {
            "graph": str(output / component.graph),
            "profiles": profiles,
            "stripped": stripped,
        }
        (folder / f"{name}.engine").write_text(json.dumps(plan))
        entries.append(
            EngineEntry(
                component=name,
                target=target,
                path=f"engines/{target}/{name}.engine",
                builder="tensorrt_rtx" if rtx else "tensorrt",
                builder_version="1.7.1" if rtx else "10.3.0",
                compute_capability=sm,
                compute="fp32",
                graph_sha256=component_sha256(manifest, name),
                stripped=stripped,
                build_seconds=0.0,
            )
        )
    seal(output, manifest.model_copy(update={"engines": tuple(entries)}))
    return output


def _cut(shape: tuple[int, ...], tokens: int) -> tuple[int, ...]:
    return (shape[0], min(shape[1], tokens), *shape[2:])
