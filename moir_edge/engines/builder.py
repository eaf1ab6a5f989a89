"""One graph in, one serialized engine or a one-line error out: for `tensorrt_rtx` and `tensorrt` alike."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from moir_edge.engines.jobs import BuildJob, ShapeTable
from moir_edge.engines.monitoring import StepCallback, make_monitor
from moir_edge.errors import EnvironmentProblem, MoirEdgeError, UnsupportedError
from moir_edge.tensorrt_api import (
    builder_flag,
    compute_capability,
    make_log,
    module_name,
    network_flags,
    version_text,
)

__all__ = ["build", "parse", "start_builder"]


def build(trt: Any, job: BuildJob, *, progress: StepCallback | None = None) -> memoryview:
    """Compile one ONNX file for one GPU architecture.

    Args:
        trt: The module `job.builder`.
        job: What to compile. `tensorrt_rtx` needs no GPU; `tensorrt` compiles for the GPU it finds.
        progress: Called as ``progress(step, PROGRESS_STEPS)``.

    Returns:
        The serialized engine, in the builder's own memory: a copy would cost the size of the weights again.

    Raises:
        UnsupportedError: A node that the parser or the builder refuses, or an SM it does not know.
        EnvironmentProblem: The build needs a GPU that is not here.
    """
    log = make_log(trt)
    builder = start_builder(trt, log)
    network, _parser = parse(trt, builder, Path(job.graph), log)
    config = _config(trt, builder, job)
    for table in job.profiles:
        config.add_optimization_profile(_profile(builder, table))
    cache = _read_timing_cache(config, job)
    monitor = make_monitor(trt, progress)
    config.progress_monitor = monitor
    engine = builder.build_serialized_network(network, config)
    if monitor.failure is not None:
        raise monitor.failure
    if engine is None:
        raise _refusal(trt, job, log)
    if cache is not None:
        _write_timing_cache(config, Path(str(job.timing_cache)))
    monitor.finish()
    return memoryview(engine)


def parse(trt: Any, builder: Any, graph: Path, log: Any) -> tuple[Any, Any]:
    """Read a graph into a strongly typed network.

    Args:
        trt: Either module.
        builder: Its `Builder`.
        graph: The ONNX file.
        log: From `make_log`; what the builder was made with.

    Returns:
        The network, and the parser, which owns weights of it and must live as long.

    Raises:
        UnsupportedError: A node that the parser refuses, or a file that is no graph.
    """
    network = builder.create_network(network_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        raise UnsupportedError(_parser_message(trt, graph, parser, log))
    return network, parser


def start_builder(trt: Any, log: Any) -> Any:
    """Return a `Builder`.

    Args:
        trt: Either module; `tensorrt` needs a GPU.
        log: From `make_log`.

    Raises:
        EnvironmentProblem: The library gives none.
    """
    try:
        return trt.Builder(log)
    except Exception as error:  # pybind raises TypeError when the library returns no builder
        reason = log.errors[0] if log.errors else str(error)
        raise EnvironmentProblem(
            f"{module_name(trt)} {version_text(trt)} cannot start here: {reason}"
        ) from error


def _config(trt: Any, builder: Any, job: BuildJob) -> Any:
    config = builder.create_builder_config()
    if module_name(trt) == "tensorrt_rtx":
        config.num_compute_capabilities = 1
        config.set_compute_capability(compute_capability(trt, job.sm), 0)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace)
    for name in _flags(job):
        config.set_flag(builder_flag(trt, name))
    return config


def _flags(job: BuildJob) -> list[str]:
    """Return the builder flags; a stripped engine takes back the weights it was built with, unless it is refittable."""
    flags = ["STRIP_PLAN"] if job.strip_weights else []
    if job.refittable:
        return [*flags, "REFIT"]
    return [*flags, "REFIT_IDENTICAL"] if flags else []


def _profile(builder: Any, table: ShapeTable) -> Any:
    shapes = builder.create_optimization_profile()
    for name, (smallest, usual, largest) in table.items():
        shapes.set_shape(name, smallest, usual, largest)
    return shapes


def _read_timing_cache(config: Any, job: BuildJob) -> Any:
    """Give the builder what it measured before; without a file an empty cache, to be filled."""
    if job.timing_cache is None:
        return None
    path = Path(job.timing_cache)
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    # Refused where another version or GPU wrote it: the build then measures anew.
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _write_timing_cache(config: Any, path: Path) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(memoryview(config.get_timing_cache().serialize()))
    os.replace(partial, path)


def _parser_message(trt: Any, graph: Path, parser: Any, log: Any) -> str:
    name = _spoken(trt)
    if parser.num_errors == 0:
        return f"{name} cannot read {graph.name}: {'; '.join(log.errors) or 'no reason given'}"
    error = parser.get_error(0)
    where = f"node {error.node_name()!r} ({error.node_operator()})"
    return f"{name} cannot parse {graph.name} at {where}: {' '.join(error.desc().split())}"


def _refusal(trt: Any, job: BuildJob, log: Any) -> MoirEdgeError:
    """Return the error of a build that gave no engine, with the remedy where there is a known one."""
    reason = log.errors[0] if log.errors else "no reason given"
    graph = Path(job.graph).name
    if (job.refittable or job.strip_weights) and "CUDA_SUCCESS" in reason:
        return EnvironmentProblem(
            f"{module_name(trt)} {version_text(trt)} compiles refittable and weight-stripped engines only where an "
            "NVIDIA driver is; build on the machine with the GPU, or leave `refittable` and `strip_weights` out"
        )
    if "OutOfMemory" in reason:
        return UnsupportedError(
            f"{_spoken(trt)} cannot build {graph} for {job.target}: a kernel needs more scratch memory than the "
            f"{job.workspace / 1e9:.1f} GB that the target grants ({reason})"
        )
    return UnsupportedError(
        f"{_spoken(trt)} cannot build {graph} for {job.target} (SM {job.sm}): {reason}"
    )


def _spoken(trt: Any) -> str:
    return "TensorRT-RTX" if module_name(trt) == "tensorrt_rtx" else "TensorRT"
