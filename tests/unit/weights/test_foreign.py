"""What users give in place of a checkpoint is named, and the line says what to give."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from moir_edge.errors import DataError
from moir_edge.evaluation.candidates import spec_of
from moir_edge.weights import check_files, resolve_checkpoint
from moir_edge.weights.foreign import describe_file, describe_folder

ORIGIN = "give the checkpoint of transformers (config.json and *.safetensors) that it was made from"


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["model-q4.gguf", "mmproj.gguf"], "it holds GGUF weights, the format of llama.cpp"),
        (["genai_config.json", "text.onnx"], "it holds a model of ONNX Runtime GenAI"),
        (["rank0.engine"], "it holds TensorRT engines (rank0.engine)"),
        (["rank0.safetensors"], "it holds weights in the layout of TensorRT-LLM"),
        (["openvino_language_model.xml"], "it holds a model of OpenVINO"),
        (["onnx/decoder_model_merged.onnx"], "it holds ONNX graphs (onnx/decoder_model_merged"),
        (["model.mlpackage/x"], "it holds a Core ML package"),
        (["model.litertlm"], "it holds a LiteRT model"),
        (["model.pte"], "it holds an ExecuTorch program"),
        (["tf_model.h5"], "it holds weights of TensorFlow"),
        (["flax_model.msgpack"], "it holds weights of Flax"),
    ],
)
@pytest.mark.parametrize("with_config", [True, False])
def test_formats_of_other_tools(
    tmp_path: Path, names: list[str], said: str, with_config: bool
) -> None:
    folder = touch(tmp_path / "model", *names)
    start = "is not a checkpoint"
    if with_config:
        (folder / "config.json").write_text('{"model_type": "llava"}')
        start = "has no weights that transformers reads"
    with pytest.raises(DataError) as caught:
        check_files(folder)
    assert str(caught.value).startswith(f"{folder} {start}: {said}")
    assert str(caught.value).endswith(ORIGIN)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["manifest.json", "decoder.onnx"], "it is a bundle, which moir-edge made"),
        (["model_index.json", "unet/config.json"], "it is a pipeline of diffusers"),
        (["params.json", "consolidated.safetensors"], "the layout of Mistral's own code"),
        (["consolidated.00.pth"], "the layout of the authors' own code (consolidated.00.pth)"),
        (["default/adapter_config.json"], "an adapter (default/adapter_config.json), not merged"),
        (["adapter_model.bin"], "it holds an adapter (adapter_model.bin), not merged weights"),
        (["latest", "zero_to_fp32.py"], "gather them with its zero_to_fp32.py"),
        (["pytorch_model_fsdp_0/x"], "the parts of an FSDP run (pytorch_model_fsdp_0)"),
        (["__0_0.distcp"], "the parts of a distributed checkpoint (__0_0.distcp)"),
        (
            ["checkpoint-500/config.json", "checkpoint-1000/config.json"],
            "give one of its checkpoints, such as checkpoint-1000",
        ),
        (["snapshots/abc/config.json", "refs/main"], "give the folder snapshots/abc"),
        (["SmolVLM/config.json"], "it has no config.json, the folder SmolVLM in it has one"),
        (["notes.txt"], "it has no config.json"),
    ],
)
def test_layouts(tmp_path: Path, names: list[str], said: str) -> None:
    folder = touch(tmp_path / "model", *names)
    with pytest.raises(DataError) as caught:
        check_files(folder)
    assert said in str(caught.value)
    if "manifest.json" in names:
        return  # a bundle is welcome there
    with pytest.raises(DataError, match=r"neither a bundle .* nor a checkpoint") as caught:
        spec_of(folder, threads=1, max_new_tokens=1)
    assert said.removeprefix("it has ") in str(caught.value)


def test_a_config_of_another_tool(tmp_path: Path) -> None:
    folder = touch(tmp_path / "engines", "rank0.engine")
    (folder / "config.json").write_text(json.dumps({"pretrained_config": {}}))
    with pytest.raises(DataError, match=r"names no model_type; it holds TensorRT engines"):
        check_files(folder)


def test_what_lies_beside_a_whole_checkpoint_does_not_matter(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(make_checkpoint("smolvlm"), tmp_path / "copy"))
    touch(folder, "onnx/model.onnx", "model.gguf", "openvino_model.xml", "checkpoint-1/config.json")
    assert check_files(folder)["model_type"] == "smolvlm"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.gguf", "is not a checkpoint folder: it holds GGUF weights"),
        ("model.onnx", "is not a checkpoint folder: it holds ONNX graphs"),
        ("model.pt", "is not a checkpoint folder: it is a file; give a folder with config.json"),
    ],
)
def test_files(tmp_path: Path, name: str, said: str) -> None:
    path = touch(tmp_path, name) / name
    with pytest.raises(DataError) as caught:
        resolve_checkpoint(path)
    assert said in str(caught.value)
    with pytest.raises(DataError) as caught:
        spec_of(path, threads=1, max_new_tokens=1)
    assert said.removeprefix("is not a checkpoint folder") in str(caught.value)


def test_a_file_of_a_checkpoint(tmp_path: Path) -> None:
    touch(tmp_path, "config.json", "model.safetensors")
    for name in ("config.json", "model.safetensors"):
        assert describe_file(tmp_path / name) == f"it is a file; give its folder {tmp_path}"


def test_an_empty_folder_has_no_description(tmp_path: Path) -> None:
    assert describe_folder(tmp_path) is None
