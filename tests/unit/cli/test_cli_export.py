"""What an export says in the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from moir_edge.bundle import ComponentEntry, EngineEntry, Manifest, ModelFacts, SourceEntry
from moir_edge.cli.export import device_build_line


def _manifest(target: str, *, weights: int, engines: tuple[EngineEntry, ...] = ()) -> Manifest:
    facts = dict.fromkeys(ModelFacts.model_fields, 1) | {
        "model_type": "smolvlm",
        "eos_token_ids": (1,),
        "special_token_ids": (),
        "newline_token_ids": (),
        "image_grid": None,
        "family": {},
    }
    component = ComponentEntry(
        graph="decoder.onnx",
        precision="fp16",
        tensor_bytes=weights,
        weight_bytes=weights,
        operators=0,
        inputs=(),
        outputs=(),
    )
    return Manifest(
        created_with={},
        source=SourceEntry(name="test", sha256="0", architecture="Test"),
        model=ModelFacts.model_validate(facts),
        target=target,
        precision="fp16",
        router=None,
        router_sha256=None,
        components={"decoder": component},
        engines=engines,
    )


def test_a_jetson_is_told_what_is_left_to_do() -> None:
    # 225 MB for the builder, and 4.1 times the weights
    line = device_build_line(Path(), _manifest("jetson-orin-nano", weights=10**9))
    assert (
        line
        == "engines: run `moir-edge build` on the device; it takes about 4.3 GB of memory there"
    )


def test_a_board_that_is_too_small_is_named_at_the_export() -> None:
    line = device_build_line(Path(), _manifest("jetson-orin-nano", weights=2 * 10**9))
    assert line.endswith(
        "about 8.4 GB of memory there, more than the 8 GB of jetson-orin-nano: "
        "add swap, or export in a narrower precision"
    )
    assert "more than" not in device_build_line(
        Path(), _manifest("jetson-agx-orin", weights=2 * 10**9)
    )


@pytest.mark.parametrize("target", ["cpu", "rtx-40"])
def test_elsewhere_nothing_is_left(target: str) -> None:
    assert device_build_line(Path(), _manifest(target, weights=1)) == ""


def test_engines_that_are_there_are_enough() -> None:
    entry = EngineEntry(
        component="decoder",
        target="jetson-thor",
        path="engines/jetson-thor/decoder.engine",
        builder="tensorrt",
        builder_version="10.3.0",
        compute_capability="11.0",
        compute="fp16",
        build_seconds=1.0,
    )
    assert device_build_line(Path(), _manifest("jetson-thor", weights=1, engines=(entry,))) == ""
