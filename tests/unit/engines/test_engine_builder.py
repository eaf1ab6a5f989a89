"""One code path for `tensorrt` 10.3, 11 and `tensorrt_rtx`: held to the signatures of the real bindings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moir_edge.engines.builder import build
from moir_edge.engines.jobs import BuildJob
from moir_edge.engines.refit import refit
from moir_edge.errors import EnvironmentProblem, UnsupportedError

from ...tensorrt_surface.double import VERSIONS, load_surface, make_double

SHAPES = {"x": ((1, 0), (1, 8), (4, 64))}


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest) -> Any:
    return make_double(load_surface(request.param))


@pytest.fixture
def job(tmp_path: Path) -> BuildJob:
    return BuildJob(
        builder="tensorrt",
        graph=str(tmp_path / "router.onnx"),
        output=str(tmp_path / "router.engine"),
        target="jetson-agx-orin",
        sm=87,
        workspace=1 << 34,
        profiles=(SHAPES, SHAPES),
        timing_cache=str(tmp_path / "timing.cache"),
    )


def _calls(trt: Any, kind: str, method: str) -> list[tuple[Any, ...]]:
    return [arguments for name, called, arguments in trt.calls if (name, called) == (kind, method)]


def test_a_build_on_the_device(trt: Any, job: BuildJob) -> None:
    assert bytes(build(trt, job)) == b"serialized"
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert _calls(trt, "Builder", "create_network") == [(typed,)]
    assert _calls(trt, "OnnxParser", "parse_from_file") == [(job.graph,)]
    pool = trt.MemoryPoolType.WORKSPACE
    assert _calls(trt, "IBuilderConfig", "set_memory_pool_limit") == [(pool, 1 << 34)]
    assert _calls(trt, "IOptimizationProfile", "set_shape") == [("x", *SHAPES["x"])] * 2
    assert len(_calls(trt, "IBuilderConfig", "add_optimization_profile")) == 2
    assert not _calls(trt, "IBuilderConfig", "set_flag")


@pytest.mark.parametrize(
    ("strip", "refittable", "flags"),
    [
        (True, False, ["STRIP_PLAN", "REFIT_IDENTICAL"]),
        (False, True, ["REFIT"]),
        (True, True, ["STRIP_PLAN", "REFIT"]),
    ],
)
def test_flags_of_stripped_and_refittable_engines(
    trt: Any, job: BuildJob, strip: bool, refittable: bool, flags: list[str]
) -> None:
    build(trt, replace(job, strip_weights=strip, refittable=refittable))
    assert [flag.name for (flag,) in _calls(trt, "IBuilderConfig", "set_flag")] == flags


def test_the_timing_cache_is_read_and_written(trt: Any, job: BuildJob) -> None:
    cache = Path(str(job.timing_cache))
    build(trt, job)
    assert _calls(trt, "IBuilderConfig", "create_timing_cache") == [(b"",)]
    assert cache.read_bytes() == b"serialized"
    trt.calls.clear()
    build(trt, job)
    assert _calls(trt, "IBuilderConfig", "create_timing_cache") == [(b"serialized",)]


def test_a_foreign_timing_cache_is_left_out(trt: Any, job: BuildJob) -> None:
    Path(str(job.timing_cache)).write_bytes(b"of another GPU")
    answers = iter([False, True])
    trt.answers["IBuilderConfig", "set_timing_cache"] = lambda *_: next(answers)
    build(trt, job)
    assert _calls(trt, "IBuilderConfig", "create_timing_cache") == [(b"of another GPU",), (b"",)]


def test_a_refused_node_is_named(trt: Any, job: BuildJob) -> None:
    trt.answers["OnnxParser", "parse_from_file"] = lambda *_: False
    trt.OnnxParser.num_errors = property(lambda _: 1)
    trt.answers["OnnxParser", "get_error"] = lambda *_: object.__new__(trt.ParserError)
    trt.answers["ParserError", "node_name"] = lambda _: "attend"
    trt.answers["ParserError", "node_operator"] = lambda _: "Det"
    trt.answers["ParserError", "desc"] = lambda _: "no such\nlayer"
    with pytest.raises(UnsupportedError) as error:
        build(trt, job)
    expected = "TensorRT cannot parse router.onnx at node 'attend' (Det): no such layer"
    assert str(error.value) == expected


def test_a_refused_build_is_one_line(trt: Any, job: BuildJob) -> None:
    trt.answers["Builder", "build_serialized_network"] = lambda *_: None
    with pytest.raises(UnsupportedError) as error:
        build(trt, job)
    assert str(error.value) == (
        "TensorRT cannot build router.onnx for jetson-agx-orin (SM 87): no reason given"
    )


def test_a_machine_without_a_gpu_is_named(trt: Any, job: BuildJob) -> None:
    def fail(*_: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.Builder = fail
    with pytest.raises(EnvironmentProblem, match="cannot start here: pybind11"):
        build(trt, job)


def test_progress_comes_from_the_monitor(trt: Any, job: BuildJob) -> None:
    def advance(_: object, __: object, config: Any) -> Any:
        monitor = config.progress_monitor
        monitor.phase_start("build", None, 4)
        for step in range(4):
            assert monitor.step_complete("build", step)
        monitor.phase_finish("build")
        return trt.IHostMemory(b"engine")

    trt.answers["Builder", "build_serialized_network"] = advance
    steps: list[int] = []
    assert bytes(build(trt, job, progress=lambda step, _: steps.append(step))) == b"engine"
    assert steps == [25, 50, 75, 99, 100]


def test_a_refit_writes_the_new_weights(trt: Any, job: BuildJob, tmp_path: Path) -> None:
    old = tmp_path / "old.engine"
    old.write_bytes(b"old")
    assert bytes(refit(trt, replace(job, refit_from=str(old)))) == b"serialized"
    assert _calls(trt, "Runtime", "deserialize_cuda_engine") == [(b"old",)]
    assert _calls(trt, "OnnxParserRefitter", "refit_from_file") == [(job.graph,)]
    assert len(_calls(trt, "ICudaEngine", "serialize")) == 1


def test_an_engine_that_does_not_load_is_not_refitted(
    trt: Any, job: BuildJob, tmp_path: Path
) -> None:
    (tmp_path / "old.engine").write_bytes(b"old")
    trt.answers["Runtime", "deserialize_cuda_engine"] = lambda *_: None
    with pytest.raises(UnsupportedError, match=r"old\.engine cannot be loaded for a refit"):
        refit(trt, replace(job, refit_from=str(tmp_path / "old.engine")))


def test_the_double_refuses_what_the_real_module_would(trt: Any) -> None:
    builder = trt.Builder(object.__new__(trt.ILogger))
    config = builder.create_builder_config()
    with pytest.raises(TypeError, match="pool is a int"):
        config.set_memory_pool_limit(0, 1)
    with pytest.raises(AttributeError):
        config.max_workspace_size = 1  # TensorRT 8
    with pytest.raises(AttributeError):
        builder.build_engine  # noqa: B018  # TensorRT 8
    with pytest.raises(TypeError, match="argument config is missing"):
        builder.build_serialized_network(builder.create_network(1))


def test_a_job_survives_the_way_to_its_process(job: BuildJob) -> None:
    assert BuildJob.from_json(job.to_json()) == job
