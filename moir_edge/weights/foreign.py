"""Names for what a folder or a file holds that is not a checkpoint of transformers, and what to give in its place."""

from __future__ import annotations

from pathlib import Path

__all__ = ["describe_file", "describe_folder"]

_ORIGIN = (
    "give the checkpoint of transformers (config.json and *.safetensors) that it was made from"
)
_MOST_NAMES = 10_000  # that are looked at, of those that match

# What a folder holds, by the first pattern that matches a name in it; a format of another tool comes from a checkpoint.
_FORMATS: tuple[tuple[str, str], ...] = (
    ("*.gguf", "GGUF weights, the format of llama.cpp"),
    ("genai_config.json", "a model of ONNX Runtime GenAI"),
    ("*.engine", "TensorRT engines"),
    ("*.plan", "TensorRT engines"),
    ("rank*.safetensors", "weights in the layout of TensorRT-LLM"),
    ("openvino*.xml", "a model of OpenVINO"),
    ("*.onnx", "ONNX graphs"),
    ("onnx/*.onnx", "ONNX graphs"),
    ("*.mlpackage", "a Core ML package"),
    ("*.mlmodelc", "a Core ML package"),
    ("*.tflite", "a LiteRT model"),
    ("*.litertlm", "a LiteRT model"),
    ("*.pte", "an ExecuTorch program"),
    ("tf_model*.h5", "weights of TensorFlow"),
    ("flax_model*.msgpack", "weights of Flax"),
)
# Layouts whose remedy is another one.
_LAYOUTS: tuple[tuple[str, str], ...] = (
    (
        "adapter_model.*",
        "it holds an adapter ({found}), not merged weights; merge it into its base model (merge_and_unload, then "
        "save_pretrained into an empty folder) and give that folder",
    ),
    (
        "*/adapter_config.json",
        "it holds an adapter ({found}), not merged weights; merge it into its base model (merge_and_unload, then "
        "save_pretrained into an empty folder) and give that folder",
    ),
    (
        "model_index.json",
        "it is a pipeline of diffusers ({found}), which makes images; moir-edge takes models that answer about them",
    ),
    (
        "params.json",
        "it has the layout of Mistral's own code ({found}); give the conversion to transformers, with a model_type in "
        "its config.json and a model.safetensors",
    ),
    (
        "consolidated*",
        "it has the layout of the authors' own code ({found}); give the conversion to transformers, with a model_type "
        "in its config.json and a model.safetensors",
    ),
    (
        "zero_to_fp32.py",
        "it holds the parts of a DeepSpeed run; gather them with its {found}, load them and save_pretrained the model",
    ),
    (
        "*_fsdp_*",
        "it holds the parts of an FSDP run ({found}); gather them (accelerate merge-weights) and save_pretrained the model",
    ),
    (
        "*.distcp",
        "it holds the parts of a distributed checkpoint ({found}); gather them (accelerate merge-weights) and "
        "save_pretrained the model",
    ),
)
_NESTED: tuple[tuple[str, str], ...] = (
    ("snapshots/*/config.json", "it is a model's folder in the hub's cache; give the folder {found}"),
    ("checkpoint-*/config.json", "it is the output of a training run; give one of its checkpoints, such as {found}"),
    ("*/config.json", "it has no config.json, the folder {found} in it has one; give that"),
)  # fmt: skip


def describe_folder(folder: Path, *, nested: bool = True) -> str | None:
    """Return what a folder is instead of a checkpoint and what to give, or None where that cannot be told.

    Args:
        folder: It exists.
        nested: Also look for checkpoints in its folders; False where it has a config.json of its own.
    """
    if _matches(folder, "manifest.json") and _matches(folder, "*.onnx"):
        return "it is a bundle, which moir-edge made from a checkpoint; give that checkpoint"
    for pattern, what in _FORMATS:
        if found := _matches(folder, pattern):
            return f"it holds {what} ({found}); {_ORIGIN}"
    layouts = (*_LAYOUTS, *_NESTED) if nested else _LAYOUTS
    for pattern, sentence in layouts:
        if found := _matches(folder, pattern):
            place = Path(found)
            shown = str(place.parent) if place.name == "config.json" else found
            return sentence.format(found=shown)
    return None


def describe_file(path: Path) -> str:
    """Return what to give in place of a file.

    Args:
        path: It exists and is not a folder.
    """
    if (path.parent / "config.json").is_file():
        return f"it is a file; give its folder {path.parent}"
    for pattern, what in _FORMATS:
        if "/" not in pattern and path.match(pattern):
            return f"it holds {what}; {_ORIGIN}"
    return "it is a file; give a folder with config.json and *.safetensors, or a hub id"


def _matches(folder: Path, pattern: str) -> str | None:
    """Return the last name that a pattern matches, relative to the folder; a longer one has the higher number."""
    found = [path for _, path in zip(range(_MOST_NAMES), folder.glob(pattern), strict=False)]
    names = [path.relative_to(folder).as_posix() for path in found]
    return max(names, key=lambda name: (len(name), name), default=None)
