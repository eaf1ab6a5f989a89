"""Give a compiled engine the weights of another graph of the same structure, on the GPU that it was compiled for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moir_edge.engines.jobs import BuildJob
from moir_edge.errors import UnsupportedError
from moir_edge.tensorrt_api import load_weights, make_log

__all__ = ["refit"]


def refit(trt: Any, job: BuildJob) -> memoryview:
    """Load the engine `job.refit_from`, exchange its weights, and serialize it again.

    Args:
        trt: The module `job.builder`; a GPU of the engine's architecture must be here.
        job: Names the engine and the graph.

    Raises:
        UnsupportedError: The engine does not load here, or takes no other weights.
    """
    log = make_log(trt)
    source = Path(str(job.refit_from))
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(source.read_bytes())
    if engine is None:
        raise UnsupportedError(
            f"{source.name} cannot be loaded for a refit: {'; '.join(log.errors) or 'no reason given'}"
        )
    load_weights(trt, engine, Path(job.graph), log)
    return memoryview(engine.serialize())
