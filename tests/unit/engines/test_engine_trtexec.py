"""The script of a bundle: a shell takes it, and it says what `moir-edge build` does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from moir_edge.bundle import ComponentEntry, Manifest, ModelFacts, SourceEntry, TensorSpec
from moir_edge.engines.trtexec import write_build_script

TOOL = """#!/bin/sh
case "$1" in --help) echo "  {help}"; exit 0 ;; esac
for flag in "$@"; do echo "$flag" >> "$LOG"; done
echo end >> "$LOG"
"""


def _manifest(target: str) -> Manifest:
    def entry(name: str, *inputs: TensorSpec) -> ComponentEntry:
        return ComponentEntry(
            graph=f"{name}.onnx", precision="fp16", tensor_bytes=1, inputs=inputs, outputs=()
        )

    ids = TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence"))
    past = TensorSpec(
        name="past_key_values.0.key", dtype="float32", shape=("batch", 3, "past_sequence", 32)
    )
    return Manifest(
        created_with={},
        source=SourceEntry(name="test", sha256="0", architecture="Test"),
        model=ModelFacts(
            model_type="smolvlm",
            hidden_size=64,
            num_layers=1,
            num_kv_heads=3,
            head_dim=32,
            vocab_size=96,
            context_length=128,
            image_token_id=3,
            eos_token_ids=(2,),
            pad_token_id=0,
            special_token_ids=(),
            image_size=32,
            tokens_per_tile=4,
        ),
        target=target,
        precision="fp16",
        router=None,
        router_sha256=None,
        components={"embedding": entry("embedding", ids), "decoder": entry("decoder", past)},
    )


def _run(folder: Path, target: str, *, helps: str) -> list[list[str]]:
    """Run the script with a tool that writes its arguments down; return those of each call."""
    script = write_build_script(folder, _manifest(target))
    assert script is not None
    tool, log = folder / "tool", folder / "log"
    tool.write_text(TOOL.format(help=helps))
    tool.chmod(0o755)
    environment = {**os.environ, "TRTEXEC": str(tool), "LOG": str(log)}
    subprocess.run([str(script)], check=True, env=environment, cwd="/")
    return [call.split() for call in log.read_text().split("end\n")[:-1]]


def test_a_jetson_builds_every_component_with_its_profiles(tmp_path: Path) -> None:
    embedding, decoder = _run(tmp_path, "jetson-orin-nano", helps="--stronglyTyped")
    assert embedding == [
        "--stronglyTyped",
        "--onnx=embedding.onnx",
        "--saveEngine=engines/jetson-orin-nano/embedding.engine",
        "--memPoolSize=workspace:2048M",
        "--skipInference",
        "--timingCacheFile=engines/jetson-orin-nano/timing.cache",
        "--minShapes=input_ids:1x1",
        "--optShapes=input_ids:1x128",
        "--maxShapes=input_ids:4x128",
    ]
    assert decoder[-8:] == [
        "--profile=0",
        "--minShapes=past_key_values.0.key:1x3x0x32",
        "--optShapes=past_key_values.0.key:1x3x0x32",
        "--maxShapes=past_key_values.0.key:4x3x127x32",
        "--profile=1",
        "--minShapes=past_key_values.0.key:1x3x1x32",
        "--optShapes=past_key_values.0.key:1x3x127x32",
        "--maxShapes=past_key_values.0.key:4x3x127x32",
    ]
    assert (tmp_path / "engines" / "jetson-orin-nano").is_dir()


def test_a_tool_that_has_lost_the_flag_is_not_given_it(tmp_path: Path) -> None:
    calls = _run(tmp_path, "jetson-thor", helps="--onnx")
    assert all("--stronglyTyped" not in call for call in calls)
    assert calls[0][0] == "--onnx=embedding.onnx"


def test_an_rtx_target_names_its_gpu(tmp_path: Path) -> None:
    calls = _run(tmp_path, "rtx-50", helps="")
    assert all("--computeCapabilities=12.0" in call for call in calls)
    assert all("--stronglyTyped" not in call for call in calls)


@pytest.mark.parametrize("target", ["cpu"])
def test_a_target_without_engines_has_no_script(tmp_path: Path, target: str) -> None:
    assert write_build_script(tmp_path, _manifest(target)) is None
    assert not any(tmp_path.iterdir())
