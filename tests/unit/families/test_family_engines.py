"""Every component of every family in TensorRT-RTX, ahead of time and without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moir_edge.bundle import open_bundle
from moir_edge.calibration import CalibrationSettings
from moir_edge.engines.builder import build, parse, start_builder
from moir_edge.engines.jobs import BuildJob, BuildOutcome
from moir_edge.export import TracedModel, assemble
from moir_edge.precisions import FP16, FP32, INT4, INT8, INT8_WEIGHT_ONLY, PRECISIONS
from moir_edge.tensorrt_api import make_log

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (extra `rtx`)")

pytestmark = [pytest.mark.slow, pytest.mark.proves("TensorRT-RTX")]

TARGET = "rtx-40"


def build_here(job: BuildJob, **_: Any) -> BuildOutcome:
    """Compile in this process: one for each of twelve graphs costs as much as compiling, and tests/unit/engines has that."""
    Path(job.output).write_bytes(build(trt, job))
    return BuildOutcome(builder_version=trt.__version__, seconds=0.0, peak_memory_bytes=1)


@pytest.mark.parametrize("precision", [FP32, FP16, INT4])
def test_every_component_compiles(
    traced: TracedModel, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moir_edge.engines.work.run_build", build_here)
    bundle = assemble(traced, tmp_path / "bundle", target=TARGET, precision=precision)
    manifest = open_bundle(bundle).manifest
    assert {"vision", "embedding", "router", "decoder"} <= set(manifest.components)
    assert [engine.component for engine in manifest.engines] == list(manifest.components)
    assert {engine.compute_capability for engine in manifest.engines} == {"8.9"}


# Compiled, these add nothing: int4 holds its towers in int8-weight-only, and the 8-bit products of a decoder
# are compiled in tests/unit/engines; what differs between families is whether the parser takes the graph.
@pytest.mark.parametrize("precision", [INT8_WEIGHT_ONLY, INT8])
def test_every_component_parses(
    traced: TracedModel, question_file: Path, tmp_path: Path, precision: str
) -> None:
    data = CalibrationSettings(data=question_file, rows=2, decode_steps=1)
    calibration = data if PRECISIONS[precision].needs_data else None
    bundle = assemble(
        traced,
        tmp_path / "bundle",
        target=TARGET,
        precision=precision,
        calibration=calibration,
        engines=False,
    )
    for component in open_bundle(bundle).manifest.components.values():
        log = make_log(trt)
        network, _parser = parse(trt, start_builder(trt, log), bundle / component.graph, log)
        assert network.num_inputs == len(component.inputs)
        assert network.num_outputs == len(component.outputs)
