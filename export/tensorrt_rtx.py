"""The one place that talks to NVIDIA's `tensorrt_rtx`: a graph file in, a serialized engine or a one-line error out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorrt_rtx as trt

from moir_edge.bundle import TensorSpec
from moir_edge.errors import UnsupportedError
from moir_edge.export.profiles import Profile
from moir_edge.targets import Target

__all__ = ["PROGRESS_STEPS", "build", "version"]

StepCallback = Callable[[int, int], None]

PROGRESS_STEPS = 100
"""The `total` that the progress callback gets."""

# Scratch memory that a kernel may ask for on the device.
_WORKSPACE_BYTES = 1 << 30


def version() -> str:
    """Return the version of the builder."""
    return str(trt.__version__)


def build(
    graph: Path,
    target: Target,
    *,
    inputs: Sequence[TensorSpec],
    profiles: Sequence[Profile],
    progress: StepCallback | None = None,
) -> memoryview:
    """Compile one ONNX file for one GPU architecture; no GPU is needed.

    Args:
        graph: The ONNX file; external data lies relative to its folder.
        target: A target with an SM that TensorRT-RTX knows.
        inputs: Names and shapes of the graph's inputs.
        profiles: Optimization profiles, in the order in which the engine holds them.
        progress: Called as ``progress(step, PROGRESS_STEPS)``.

    Returns:
        The serialized engine, in the builder's own memory: a copy would cost the size of the weights again.

    Raises:
        UnsupportedError: A node that the parser or the builder refuses, or an SM it does not know.
    """
    logger = _Log()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        raise UnsupportedError(_parser_message(graph, parser, logger))
    config = _config(builder, target)
    for profile in profiles:
        config.add_optimization_profile(_profile(builder, inputs, profile))
    monitor = _Monitor(progress)
    config.progress_monitor = monitor
    engine = builder.build_serialized_network(network, config)
    if monitor.failure is not None:
        raise monitor.failure
    if engine is None:
        raise UnsupportedError(_builder_message(graph, target, logger))
    if progress is not None:
        progress(PROGRESS_STEPS, PROGRESS_STEPS)
    return memoryview(engine)


def _config(builder: Any, target: Target) -> Any:
    capability = getattr(trt.ComputeCapability, f"SM{target.sm}", None)
    if capability is None:
        raise UnsupportedError(
            f"TensorRT-RTX {version()} does not build for SM {target.sm} ({target.name})"
        )
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(capability, 0)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
    return config


def _profile(builder: Any, inputs: Sequence[TensorSpec], profile: Profile) -> Any:
    shapes = builder.create_optimization_profile()
    for tensor in inputs:
        smallest, usual, largest = profile.sizes(tensor.name, tensor.shape)
        shapes.set_shape(tensor.name, smallest, usual, largest)
    return shapes


class _Log(trt.ILogger):  # type: ignore[misc]
    """Keeps the errors that TensorRT-RTX logs, and prints nothing."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self.errors.append(" ".join(message.split()))


class _Monitor(trt.IProgressMonitor):  # type: ignore[misc]
    """Turns TensorRT's tree of phases into one number that never falls."""

    def __init__(self, progress: StepCallback | None) -> None:
        trt.IProgressMonitor.__init__(self)
        self.failure: BaseException | None = None
        self._progress = progress
        self._open: list[_Phase] = []
        self._reported = -1

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        del parent_phase  # phases nest; the last one that is open is the parent
        self._open.append(_Phase(phase_name, max(1, num_steps)))

    def step_complete(self, phase_name: str, step: int) -> bool:
        for phase in self._open:
            if phase.name == phase_name:
                phase.done = step + 1
        return self._report()

    def phase_finish(self, phase_name: str) -> None:
        self._open = [phase for phase in self._open if phase.name != phase_name]

    def _report(self) -> bool:
        """Call the callback on a new figure; a False tells the builder to stop."""
        step = int(PROGRESS_STEPS * self._fraction())
        if self._progress is None or step <= self._reported or self.failure is not None:
            return self.failure is None
        self._reported = step
        try:
            self._progress(step, PROGRESS_STEPS)
        except BaseException as error:  # must not cross the C++ builder; `build` raises it again
            self.failure = error
        return self.failure is None

    def _fraction(self) -> float:
        fraction = 0.0
        for phase in reversed(self._open):
            fraction = min(1.0, (phase.done + fraction) / phase.steps)
        return min(fraction, 0.99)


class _Phase:
    def __init__(self, name: str, steps: int) -> None:
        self.name, self.steps, self.done = name, steps, 0


def _parser_message(graph: Path, parser: Any, logger: _Log) -> str:
    if parser.num_errors == 0:
        return f"TensorRT-RTX cannot read {graph.name}: {'; '.join(logger.errors) or 'no reason given'}"
    error = parser.get_error(0)
    where = f"node {error.node_name()!r} ({error.node_operator()})"
    return f"TensorRT-RTX cannot parse {graph.name} at {where}: {' '.join(error.desc().split())}"


def _builder_message(graph: Path, target: Target, logger: _Log) -> str:
    reason = logger.errors[0] if logger.errors else "no reason given"
    return f"TensorRT-RTX cannot build {graph.name} for {target.name} (SM {target.sm}): {reason}"
