"""An engine runs only where, and for what, it was built."""

from __future__ import annotations

import hashlib

import pytest

from moir_edge.bundle import (
    ComponentEntry,
    EngineEntry,
    FileEntry,
    Manifest,
    ModelFacts,
    SourceEntry,
    check_engine,
    component_sha256,
    find_engine,
)
from moir_edge.errors import BundleError

FACTS = ModelFacts(
    model_type="smolvlm",
    hidden_size=8,
    num_layers=1,
    num_kv_heads=1,
    head_dim=8,
    vocab_size=16,
    context_length=32,
    image_token_id=3,
    eos_token_ids=(2,),
    pad_token_id=0,
    special_token_ids=(0, 2, 3),
    image_size=16,
    tokens_per_tile=4,
)


def _manifest(weights: str = "w", *, recorded: bool = True) -> Manifest:
    component = ComponentEntry(
        graph="router.onnx",
        data=("router.data",),
        precision="fp32",
        tensor_bytes=4,
        inputs=(),
        outputs=(),
        structure_sha256="s" if recorded else None,
        weights_sha256=weights if recorded else None,
    )
    return Manifest(
        created_with={"moir-edge": "0"},
        source=SourceEntry(name="tiny", sha256="0", architecture="SmolVLM"),
        model=FACTS,
        target="rtx-40",
        precision="fp32",
        router=None,
        router_sha256=None,
        components={"router": component},
        files=(
            FileEntry(path="router.data", bytes=1, sha256=f"data-{weights}"),
            FileEntry(path="router.onnx", bytes=1, sha256="graph"),
        ),
    )


def _entry(manifest: Manifest, **changes: str) -> EngineEntry:
    fields = {
        "component": "router",
        "target": "rtx-40",
        "path": "engines/rtx-40/router.engine",
        "builder": "tensorrt_rtx",
        "builder_version": "1.7.1.116",
        "compute_capability": "8.9",
        "compute": "fp32",
        "graph_sha256": component_sha256(manifest, "router"),
        "build_seconds": 1.0,
    }
    return EngineEntry.model_validate({**fields, **changes})


def _check(entry: EngineEntry, manifest: Manifest, **changes: str | None) -> None:
    here = {
        "builder": "tensorrt_rtx",
        "version": "1.7.1.116",
        "compute_capability": "8.9",
        "bundle": "out",
    }
    check_engine(entry, manifest, **{**here, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("recorded", [True, False])
def test_the_engine_of_this_graph_and_gpu_is_taken(recorded: bool) -> None:
    manifest = _manifest(recorded=recorded)
    _check(_entry(manifest), manifest)
    _check(_entry(manifest), manifest, compute_capability=None)


@pytest.mark.parametrize(
    ("here", "message"),
    [
        (
            {"compute_capability": "8.6"},
            "engines/rtx-40/router.engine was built for SM 8.9, and this GPU is SM 8.6; "
            "rebuild it with `moir-edge build out --target rtx-30`",
        ),
        (
            {"compute_capability": "9.0"},
            "engines/rtx-40/router.engine was built for SM 8.9, and this GPU is SM 9.0; no target of moir-edge has "
            "tensorrt_rtx engines for SM 9.0; see `moir-edge targets`",
        ),
        (
            {"version": "1.8.0"},
            "engines/rtx-40/router.engine was built by tensorrt_rtx 1.7.1.116, and this is 1.8.0; "
            "rebuild it with `moir-edge build out --target rtx-40`",
        ),
        (
            {"builder": "tensorrt", "version": "10.3.0", "compute_capability": "8.7"},
            "engines/rtx-40/router.engine was built by tensorrt_rtx, which tensorrt cannot load; "
            "rebuild it on this device with `moir-edge build out --target jetson-orin-nano`",
        ),
    ],
)
def test_a_foreign_engine_is_refused_with_the_command(here: dict[str, str], message: str) -> None:
    manifest = _manifest()
    with pytest.raises(BundleError) as refusal:
        _check(_entry(manifest), manifest, **here)
    assert str(refusal.value) == message


@pytest.mark.parametrize("recorded", [True, False])
def test_an_engine_of_other_weights_is_stale(recorded: bool) -> None:
    entry = _entry(_manifest(recorded=recorded))
    with pytest.raises(
        BundleError, match=r"router\.engine is stale: router\.onnx has changed since; rebuild it"
    ):
        _check(entry, _manifest("other", recorded=recorded))


def test_an_engine_without_a_recorded_graph_is_stale() -> None:
    manifest = _manifest()
    with pytest.raises(BundleError, match="is stale"):
        _check(_entry(manifest, graph_sha256=""), manifest)


def test_where_the_weights_lie_does_not_matter() -> None:
    manifest = _manifest()
    moved = manifest.components["router"].model_copy(update={"data": ("vision.data",)})
    elsewhere = manifest.model_copy(update={"components": {"router": moved}})
    assert component_sha256(manifest, "router") == component_sha256(elsewhere, "router")
    assert component_sha256(manifest, "router") == hashlib.sha256(b"s\nw").hexdigest()


def test_the_engine_of_the_bundles_own_target_is_found_first() -> None:
    manifest = _manifest()
    orin = {"builder": "tensorrt", "builder_version": "10.3.0", "compute_capability": "8.7"}
    nano = _entry(manifest, target="jetson-orin-nano", **orin)
    agx = _entry(manifest, target="jetson-agx-orin", **orin)
    both = manifest.model_copy(update={"engines": (nano, agx), "target": "jetson-agx-orin"})
    found = find_engine(both, "router", builder="tensorrt", compute_capability="8.7")
    assert found == agx
    assert find_engine(both, "router", builder="tensorrt_rtx", compute_capability="8.7") is None
    assert find_engine(both, "vision", builder="tensorrt", compute_capability="8.7") is None
