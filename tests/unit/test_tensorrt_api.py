"""What TensorRT 10.3, 11 and TensorRT-RTX call differently, against what their real bindings offer."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from moir_edge import tensorrt_api as api
from moir_edge.errors import EnvironmentProblem, UnsupportedError

from ..tensorrt_surface.double import VERSIONS, load_surface, make_double
from ..tensorrt_surface.record import describe

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "tests" / "tensorrt_surface" / "record.py"

# Every module that takes `trt` as an argument.
CALLERS = sorted(
    path
    for pattern in ("moir_edge/*.py", "moir_edge/runtime/**/*.py", "moir_edge/engines/*.py")
    for path in ROOT.glob(pattern)
    if "trt: Any" in path.read_text(encoding="utf-8")
)
# Names that one module alone has, and what stands in front of them.
ONLY_IN_RTX = {
    "ComputeCapability": "compute_capability() and module_name() ask for it",
    "CudaGraphStrategy": "read where the runtime configuration has cuda_graph_strategy",
}


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest) -> Any:
    return make_double(load_surface(request.param))


def test_networks_are_strongly_typed_in_every_version(trt: Any) -> None:
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert api.network_flags(trt) == 1 << int(flag)


def test_the_flag_may_go_after_10_but_not_before(trt: Any) -> None:
    class Without:
        pass

    trt.NetworkDefinitionCreationFlag = Without
    if api.version_tuple(trt) < (11,):
        with pytest.raises(UnsupportedError, match="has no strongly typed networks"):
            api.network_flags(trt)
    else:
        assert api.network_flags(trt) == 0


@pytest.mark.parametrize("name", ["REFIT", "REFIT_IDENTICAL", "STRIP_PLAN"])
def test_flags_of_refits_exist_in_both(trt: Any, name: str) -> None:
    assert api.builder_flag(trt, name) == trt.BuilderFlag[name]


def test_a_flag_that_a_version_dropped_is_named(trt: Any) -> None:
    if api.version_tuple(trt) < (11,):
        assert api.builder_flag(trt, "FP16").name == "FP16"
        return
    with pytest.raises(UnsupportedError, match=r"tensorrt 11\.4\.0\.106 has no builder flag FP16"):
        api.builder_flag(trt, "FP16")


def test_version_and_name(trt: Any) -> None:
    assert api.module_name(trt) == "tensorrt"
    assert api.version_tuple(trt)[:2] in ((10, 3), (11, 4))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("10.3.0", (10, 3, 0)), ("10.0.0b6", (10, 0)), ("1.7.1.116", (1, 7, 1, 116))],
)
def test_version_numbers(text: str, numbers: tuple[int, ...]) -> None:
    module: Any = ModuleType("tensorrt")
    module.__version__ = text
    assert api.version_tuple(module) == numbers


def test_an_old_tensorrt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old: Any = ModuleType("tensorrt")
    old.__version__ = "8.6.2"
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(EnvironmentProblem, match=r"8\.6\.2 is too old .* 10\.3 or later"):
        api.load_tensorrt("tensorrt")


def test_a_missing_module_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EnvironmentProblem, match="--system-site-packages"):
        api.load_tensorrt("tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'moir-edge\[rtx\]'"):
        api.load_tensorrt("tensorrt_rtx")


class _Driver:
    """Answers like the CUDA driver of a machine with one Orin, or fails in `fails`."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails

    def cuInit(self, flags: int) -> int:  # noqa: N802  (the driver's spelling)
        return 100 if self.fails == "init" else 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        return 101 if self.fails == "device" or index > 0 else 0

    def cuDeviceGetAttribute(self, figure: Any, attribute: int, device: Any) -> int:  # noqa: N802
        figure._obj.value = {75: 8, 76: 7}[attribute]
        return 1 if self.fails == "attribute" else 0


@pytest.mark.parametrize(
    ("fails", "index", "found"),
    [("", 0, "8.7"), ("", 1, None), ("init", 0, None), ("device", 0, None), ("attribute", 0, None)],
)
def test_the_driver_tells_the_compute_capability(
    monkeypatch: pytest.MonkeyPatch, fails: str, index: int, found: str | None
) -> None:
    monkeypatch.setattr(api.ctypes, "CDLL", lambda _: _Driver(fails))
    assert api.device_compute_capability(index) == found


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(api.ctypes, "CDLL", missing)
    assert api.device_compute_capability() is None


def test_the_log_keeps_errors_as_single_lines(trt: Any) -> None:
    log = api.make_log(trt)
    log.log(trt.ILogger.WARNING, "never mind")
    log.log(trt.ILogger.ERROR, "two\n  lines")
    assert log.errors == ["two lines"]


def test_weights_are_loaded_from_the_graph(trt: Any) -> None:
    engine = object.__new__(trt.ICudaEngine)
    api.load_weights(trt, engine, Path("router.onnx"), api.make_log(trt))
    names = [(kind, method) for kind, method, _ in trt.calls if method != "__init__"]
    assert names == [("OnnxParserRefitter", "refit_from_file"), ("Refitter", "refit_cuda_engine")]


def test_weights_that_do_not_fit_are_refused(trt: Any) -> None:
    engine = object.__new__(trt.ICudaEngine)
    trt.answers["OnnxParserRefitter", "refit_from_file"] = lambda *_: False
    with pytest.raises(UnsupportedError, match=r"weights of router\.onnx do not fit its engine"):
        api.load_weights(trt, engine, Path("router.onnx"), api.make_log(trt))


def test_an_engine_that_takes_no_weights_is_refused(trt: Any) -> None:
    class Fixed:
        refittable = False

    with pytest.raises(UnsupportedError, match="build it with `refittable=True`"):
        api.load_weights(trt, Fixed(), Path("router.onnx"), api.make_log(trt))


def _chains(path: Path) -> set[tuple[str, ...]]:
    """Return what a module reads from `trt`: ``trt.A`` as ("A",), ``trt.A.b`` as ("A", "b")."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        if names and isinstance(node, ast.Name) and node.id == "trt":
            found.add(tuple(names[:2]))
    return found


def _has(surface: dict[str, Any], chain: tuple[str, ...]) -> bool:
    if chain[0].startswith("__"):
        return True
    members = surface["enums"].get(chain[0])
    if members is None and chain[0] in surface["classes"]:
        described = surface["classes"][chain[0]]
        members = {
            *("__init__", "__class__"),
            *(name for part in ("methods", "properties", "constants") for name in described[part]),
        }
    if members is None:
        return False
    return len(chain) == 1 or chain[1] in members or chain[1].startswith("__")


def _surfaces() -> dict[str, dict[str, Any]]:
    surfaces = {version: load_surface(version) for version in VERSIONS}
    if importlib.util.find_spec("tensorrt_rtx") is not None:
        import tensorrt_rtx

        surfaces["rtx"] = describe(tensorrt_rtx)
    return surfaces


def test_the_walk_finds_the_callers() -> None:
    names = {path.name for path in CALLERS}
    assert {"tensorrt_api.py", "builder.py", "refit.py", "monitoring.py"} <= names
    assert ("MemoryPoolType", "WORKSPACE") in _chains(ROOT / "moir_edge" / "engines" / "builder.py")


@pytest.mark.parametrize("path", CALLERS, ids=lambda path: path.stem)
def test_every_name_that_is_read_exists_in_every_module(path: Path) -> None:
    for version, surface in _surfaces().items():
        missing = {chain for chain in _chains(path) if not _has(surface, chain)}
        if version != "rtx":
            missing = {chain for chain in missing if chain[0] not in ONLY_IN_RTX}
        assert not missing, f"{version} lacks {missing}"


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_bindings") is None,
    reason="tensorrt-cu13-bindings is not installed",
)
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_record_is_what_the_installed_bindings_offer() -> None:
    spec = importlib.util.find_spec("tensorrt_bindings")
    assert spec is not None
    assert spec.origin is not None
    site = Path(spec.origin).parents[1]
    run = subprocess.run(
        [sys.executable, str(RECORD), str(site)], capture_output=True, text=True, check=True
    )
    described = json.loads(run.stdout)
    known = {load_surface(version)["version"]: version for version in VERSIONS}
    if described["version"] not in known:
        pytest.skip(f"bindings {described['version']} are not recorded")
    assert described == load_surface(known[described["version"]])
