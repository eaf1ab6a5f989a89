"""Bundles on recorded machines: engines that fit, that are missing, foreign ones, and too little memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from moir_edge.bundle import Bundle, EngineEntry, component_sha256
from moir_edge.doctor.bundles import judge_bundle
from moir_edge.doctor.diagnosis import read_machine
from moir_edge.doctor.providers import Machine, judge_providers
from tests.unit.bundle.test_engines import _manifest
from tests.unit.device.recorded import installed, system

ORIN = "orin-nano-jetpack-6"


def machine(**files: str) -> Machine:
    return read_machine(system(ORIN, **files), installed(ORIN))


def bundle(*, version: str | None = "10.3.0", capability: str = "8.7", weights: int = 4) -> Bundle:
    manifest = _manifest().model_copy(update={"target": "jetson-orin-nano"})
    entry = manifest.components["router"].model_copy(update={"tensor_bytes": weights})
    manifest = manifest.model_copy(update={"components": {"router": entry}})
    if version is None:
        return Bundle(Path("b"), manifest.model_copy(update={"engines": ()}))
    engine = EngineEntry(
        component="router",
        target="jetson-orin-nano",
        path="engines/jetson-orin-nano/router.engine",
        builder="tensorrt",
        builder_version=version,
        compute_capability=capability,
        compute="fp16",
        graph_sha256=component_sha256(manifest, "router"),
        build_seconds=1.0,
    )
    return Bundle(Path("b"), manifest.model_copy(update={"engines": (engine,)}))


def test_engines_that_fit_run() -> None:
    found = judge_bundle(bundle(), machine(), judge_providers(machine()))
    assert (found.provider, found.reason, found.command) == ("tensorrt", "", None)


@pytest.mark.parametrize(
    ("version", "capability", "reason"),
    [
        (None, "8.7", "it has no tensorrt engine of the router for this GPU"),
        ("10.3.0", "8.6", "it has no tensorrt engine of the router for this GPU"),
        (
            "10.13.3",
            "8.7",
            "engines/jetson-orin-nano/router.engine was built by tensorrt 10.13.3, and this is tensorrt 10.3.0",
        ),
    ],
)
def test_engines_that_do_not_fit_name_the_command(
    version: str | None, capability: str, reason: str
) -> None:
    given = bundle(version=version, capability=capability)
    found = judge_bundle(given, machine(), judge_providers(machine()))
    assert found.provider == "cpu"
    assert found.reason == reason.replace("this is tensorrt", "this is")
    assert found.command == "moir-edge build b --target jetson-orin-nano"


def test_weights_that_do_not_fit_do_not_run() -> None:
    found = judge_bundle(bundle(weights=9_000_000_000), machine(), judge_providers(machine()))
    assert found.provider is None
    assert found.reason == "its weights take 9.0 GB, and 5.6 GB is free"
    assert found.command is None
