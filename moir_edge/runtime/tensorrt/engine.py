"""One compiled engine: loaded, asked what it takes, and run on arrays that lie on the device."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moir_edge.errors import BundleError, EnvironmentProblem, UnsupportedError
from moir_edge.runtime.tensorrt.kernel_cache import KernelCache
from moir_edge.runtime.tensorrt.memory import Block, DeviceArray, DeviceMemory
from moir_edge.tensorrt_api import load_weights, make_log, module_name, version_text

__all__ = ["Context", "Engine", "Scratch"]

# By the name of TensorRT's DataType; the graphs take and give no others.
_NUMPY_TYPES = {"FLOAT": np.float32, "INT64": np.int64, "INT32": np.int32, "BOOL": np.bool_}


class Engine:
    """A deserialized engine.

    Args:
        trt: `tensorrt` or `tensorrt_rtx`.
        path: The engine file.
        memory: Where its arrays lie.
        kernels: Where compiled kernels are kept between processes; only `tensorrt_rtx` compiles any at run time.
        weights: The graph that a stripped engine takes its weights from; None for one that holds them.

    Raises:
        BundleError: The module cannot load the file.
        UnsupportedError: The weights do not fit.
    """

    def __init__(
        self,
        trt: Any,
        path: Path,
        memory: DeviceMemory,
        kernels: KernelCache,
        *,
        weights: Path | None = None,
    ) -> None:
        self.trt = trt
        self.name = path.stem
        self.memory = memory
        self.log = make_log(trt)
        self._kernels = kernels
        self._runtime = trt.Runtime(self.log)  # must outlive the engine
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            self.handle = self._runtime.deserialize_cuda_engine(data)
        if self.handle is None:
            raise BundleError(
                f"{module_name(trt)} {version_text(trt)} cannot load {path}: {self.reason()}"
            )
        if weights is not None:
            load_weights(trt, self.handle, weights, self.log)
        names = [self.handle.get_tensor_name(n) for n in range(self.handle.num_io_tensors)]
        output = trt.TensorIOMode.OUTPUT
        self.outputs = [name for name in names if self.handle.get_tensor_mode(name) == output]
        self.dtypes = {
            name: np.dtype(_NUMPY_TYPES[self.handle.get_tensor_dtype(name).name])
            for name in self.outputs
        }

    def largest(self, name: str, profile: int = 0) -> tuple[int, ...]:
        """Return the largest shape that an input may have under an optimization profile."""
        return tuple(self.handle.get_tensor_profile_shape(name, profile)[2])

    def reason(self) -> str:
        """Return the last error that TensorRT reported, as one line."""
        return self.log.errors[-1] if self.log.errors else "no reason was given"

    def context(self, profile: int, scratch: Scratch, *, replay: bool = False) -> Context:
        """Return something that runs the engine under one optimization profile.

        Args:
            profile: Its index.
            scratch: Memory for activations; contexts may share one, since they run one after the other.
            replay: Ask TensorRT to record the kernels and replay them, where it can do so by itself.

        Raises:
            EnvironmentProblem: TensorRT cannot make one.
        """
        handle, replays = self._make_context(replay)
        if handle is None:
            raise EnvironmentProblem(f"{self.name}: no execution context: {self.reason()}")
        cuda = self.memory.cuda
        if not handle.set_optimization_profile_async(profile, cuda.stream):
            raise EnvironmentProblem(f"{self.name}: no profile {profile}: {self.reason()}")
        cuda.synchronize()
        return Context(self, handle, profile, scratch, replays=replays)

    def _make_context(self, replay: bool) -> tuple[Any, bool]:
        """Return an execution context without activation memory, and whether it replays by itself."""
        trt = self.trt
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(self.handle, "create_runtime_config"):  # TensorRT 10.3
            return self.handle.create_execution_context(strategy), False
        config = self.handle.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        self._kernels.attach(config)
        replays = replay and hasattr(config, "cuda_graph_strategy")
        if replays:
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self.handle.create_execution_context(config), replays


class Scratch:
    """Activation memory that grows to what the largest run so far needed.

    Args:
        memory: Where it is taken.
    """

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self._block: Block | None = None

    def of(self, nbytes: int) -> Block:
        """Return a block of at least so many bytes, the same one as long as it is large enough."""
        if self._block is None or self._block.nbytes < nbytes:
            self._block = None  # the old one is free before a larger one is asked for
            self._block = self._memory.device.take(nbytes)
        return self._block


class Context:
    """An engine under one optimization profile.

    Args:
        engine: The engine.
        handle: TensorRT's execution context.
        profile: Index of the optimization profile.
        scratch: Memory for activations.
        replays: Whether TensorRT records and replays the kernels by itself.
    """

    def __init__(
        self, engine: Engine, handle: Any, profile: int, scratch: Scratch, *, replays: bool
    ) -> None:
        self.replays = replays
        self._engine = engine
        self._handle = handle
        self._profile = profile
        self._scratch = scratch
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._scratch_bytes = 0
        self._scratch_address: int | None = None

    def run(
        self,
        inputs: Mapping[str, DeviceArray],
        outputs: Mapping[str, DeviceArray] | None = None,
    ) -> dict[str, DeviceArray]:
        """Queue one run.

        Args:
            inputs: Every input by name.
            outputs: Where outputs go that are not to be put into arrays of their own.

        Returns:
            Every output by name.

        Raises:
            UnsupportedError: A shape is outside the engine's range.
            EnvironmentProblem: TensorRT cannot run.
        """
        results = self.bind(inputs, outputs or {})
        self.enqueue()
        return results

    def bind(
        self, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]
    ) -> dict[str, DeviceArray]:
        """Tell TensorRT where everything lies, as `run` does, and leave the run itself to `enqueue`."""
        self._set_shapes(inputs)
        results = {name: outputs.get(name) or self._output(name) for name in self._engine.outputs}
        for name, array in (*inputs.items(), *results.items()):
            if not self._handle.set_tensor_address(name, array.address):
                raise EnvironmentProblem(f"{self._engine.name}: {name}: {self._engine.reason()}")
        return results

    def enqueue(self) -> None:
        """Queue a run on what was bound last."""
        self._set_scratch()
        if not self._handle.execute_async_v3(self._engine.memory.cuda.stream):
            raise EnvironmentProblem(f"{self._engine.name} does not run: {self._engine.reason()}")

    def may_be_captured(self) -> bool:
        """Whether CUDA can record a run; True where TensorRT cannot tell beforehand."""
        ask = getattr(self._handle, "is_stream_capturable", None)
        return True if ask is None else bool(ask(self._engine.memory.cuda.stream))

    def _set_shapes(self, inputs: Mapping[str, DeviceArray]) -> None:
        shapes = {name: array.shape for name, array in inputs.items()}
        if shapes == self._shapes:
            return
        self._shapes = {}
        for name, shape in shapes.items():
            if not self._handle.set_input_shape(name, shape):
                raise UnsupportedError(self._outside(name, shape))
        if missing := self._handle.infer_shapes():
            raise UnsupportedError(
                f"{self._engine.name}: TensorRT cannot tell the shapes of {', '.join(missing)}"
            )
        self._scratch_bytes = self._handle.update_device_memory_size_for_shapes()
        self._scratch_address = None  # TensorRT divides it up anew
        self._shapes = shapes

    def _outside(self, name: str, shape: tuple[int, ...]) -> str:
        smallest, _, largest = self._engine.handle.get_tensor_profile_shape(name, self._profile)
        return (
            f"{self._engine.name}: {name} of shape {shape} is outside the engine's range, {tuple(smallest)} to "
            f"{tuple(largest)}; give fewer images or a shorter prompt, or run with another `provider`"
        )

    def _output(self, name: str) -> DeviceArray:
        shape = tuple(self._handle.get_tensor_shape(name))
        return self._engine.memory.empty(shape, self._engine.dtypes[name])

    def _set_scratch(self) -> None:
        block = self._scratch.of(self._scratch_bytes)
        if block.address != self._scratch_address:
            self._handle.set_device_memory(block.address, block.nbytes)
            self._scratch_address = block.address
