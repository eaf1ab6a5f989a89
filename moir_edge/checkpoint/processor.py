"""The Hugging Face processor of a checkpoint, built from its parts without torchvision or num2words.

Video is what those two packages are for, and the routers see images: the video part keeps its settings and does
nothing. Images go through transformers' Pillow backend, whose pixels the torch-free runtime repeats to the bit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from moir_edge.arguments import given_path
from moir_edge.checked import checked
from moir_edge.errors import DataError
from moir_edge.json_files import read_json
from moir_edge.models.registry import own_template
from moir_edge.weights import refuse_own_class
from moir_edge.weights.libraries import naming_files

__all__ = [
    "chat_template",
    "image_record",
    "load_processor",
    "load_tokenizer",
    "processor_note",
]

_PROCESSOR, _IMAGES = "processor_config.json", "preprocessor_config.json"
_CALL_SETTINGS = ("crop_to_patches",)
_VIDEO = "video_preprocessor_config.json"
_TOKENIZER = "tokenizer_config.json"
_VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.tiktoken", "tekken.json")


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a checkpoint.

    Raises:
        DataError: Its files are missing or damaged.
        UnsupportedError: Its class comes with the checkpoint.
    """
    from transformers import AutoTokenizer

    if not any(path.is_file() for name in _VOCABULARIES for path in folder.glob(name)):
        raise DataError(
            f"{folder} has no vocabulary of a tokenizer (tokenizer.json is missing); "
            "copy it from the base model, or save the tokenizer next to the weights"
        )
    path = folder / _TOKENIZER
    if path.is_file():
        refuse_own_class(path, read_json(path), "tokenizer_class")

    tokenizers: Any = AutoTokenizer  # its from_pretrained is not typed
    with naming_files(
        f"{folder}: its tokenizer cannot be loaded", "; save the tokenizer next to the weights"
    ):
        return tokenizers.from_pretrained(folder, trust_remote_code=False)


@checked(folder=given_path)
def load_processor(folder: Path, config: Any) -> Any:
    """Return the processor of a checkpoint.

    Args:
        folder: The checkpoint's folder.
        config: Its Hugging Face config; what an old processor leaves out is taken from it.

    Raises:
        DataError: Its files are missing or damaged.
        UnsupportedError: A class of it comes with the checkpoint.
    """
    if lack := _lack(folder):
        raise DataError(lack)
    _refuse_own_classes(folder)
    cls = _processor_class(folder, config)
    with naming_files(f"{folder}: its processor cannot be loaded"):
        record, _ = cls.get_processor_dict(folder)
        parts = [_part(name, folder, record) for name in cls.get_attributes()]
        processor = _built(cls, parts, record)
    _complete(folder, processor, record, config)
    if processor.chat_template is None:
        processor.chat_template = processor.tokenizer.chat_template or own_template(
            str(getattr(config, "model_type", ""))
        )
    return processor


@checked(folder=given_path)
def processor_note(folder: Path) -> str | None:
    """Say that a checkpoint has no processor, which `retrofit` can do without and every other command needs, or return None."""
    lack = _lack(folder)
    return None if lack is None else f"{lack}: tune, export, compare and diagnose need it"


def _lack(folder: Path) -> str | None:
    if any((folder / name).is_file() for name in (_PROCESSOR, _IMAGES)):
        return None
    return (
        f"{folder} has neither {_PROCESSOR} nor {_IMAGES}; save its processor next to the weights"
    )


def chat_template(processor: Any) -> str | None:
    """Return the template that turns a conversation into a prompt, or None.

    Args:
        processor: From `load_processor`.
    """
    found = processor.chat_template
    if isinstance(found, dict):
        found = found.get("default")
    return found if isinstance(found, str) and found.strip() else None


def image_record(processor: Any) -> dict[str, Any]:
    """Return what `processor_config.json` holds of a processor without its video part.

    Args:
        processor: From `load_processor`.
    """
    record: dict[str, Any] = processor.to_dict()
    record.pop("video_processor", None)
    images, given = record.get("image_processor"), getattr(processor, "images_kwargs", None) or {}
    if isinstance(images, dict):
        # What the processor's call sets over its image processor, which the runtime has alone.
        images.update({key: given[key] for key in _CALL_SETTINGS if key in given})
    return record


def _processor_class(folder: Path, config: Any) -> Any:
    """Return the class that the files name, else the one that belongs to the config."""
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    for name in (_PROCESSOR, _IMAGES, _TOKENIZER):
        path = folder / name
        record = read_json(path) if path.is_file() else None
        named = record.get("processor_class") if isinstance(record, dict) else None
        if isinstance(named, str) and hasattr(transformers, named):
            return _importable(getattr(transformers, named))
    mapping: Any = PROCESSOR_MAPPING
    if type(config) not in mapping:
        raise DataError(
            f"{folder} names no processor_class that transformers {transformers.__version__} has; "
            "save its processor next to the weights with save_pretrained"
        )
    return _importable(mapping[type(config)])


def _importable(cls: Any) -> Any:
    """Return a processor's class where transformers gives a placeholder for want of torchvision.

    Pixtral's takes one function from the module of its torchvision image processor. The module of the Pillow one has it too.
    """
    name = str(cls.__module__)
    package, _, module = name.rpartition(".")
    model = module.removeprefix("processing_")
    pillow = f"{package}.image_processing_pil_{model}"
    if not getattr(cls, "is_dummy", False) or find_spec(pillow) is None:
        return cls
    wanted = f"{package}.image_processing_{model}"
    sys.modules[wanted] = import_module(pillow)
    try:
        return getattr(import_module(name), cls.__name__)
    finally:
        del sys.modules[wanted]


def _refuse_own_classes(folder: Path) -> None:
    """Refuse a processor, or an image processor, whose class comes with the checkpoint."""
    found = {
        path: record
        for path in (folder / _PROCESSOR, folder / _IMAGES)
        if path.is_file() and isinstance(record := read_json(path), dict)
    }
    for path, record in found.items():
        refuse_own_class(path, record, "processor_class")
        nested = record.get("image_processor")
        refuse_own_class(path, nested or record, "image_processor_type")
        if isinstance(nested, dict):
            return  # the other file is not read then


def _part(name: str, folder: Path, record: dict[str, Any]) -> Any:
    from transformers import AutoFeatureExtractor, AutoImageProcessor

    images: Any = AutoImageProcessor
    if name == "tokenizer":
        return load_tokenizer(folder)
    if name == "image_processor":
        return images.from_pretrained(folder, backend="pil", trust_remote_code=False)
    if name == "video_processor":
        return VideoSettings(_video_record(folder, record))
    extractors: Any = AutoFeatureExtractor
    return extractors.from_pretrained(folder, trust_remote_code=False)


class VideoSettings(dict[str, Any]):
    """The JSON object of a video processor, in its place: settings can be read, no video can be processed."""

    model_input_names: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.get(name)


def _video_record(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    found = record.get("video_processor")
    path = folder / _VIDEO
    if found is None and path.is_file():
        found = read_json(path)
    return found if isinstance(found, dict) else {}


def _built(cls: Any, parts: list[Any], record: dict[str, Any]) -> Any:
    """Call the class with its parts; the class is its own again afterwards."""

    def check(self: Any, name: str, argument: Any) -> Any:
        return None if isinstance(argument, VideoSettings) else accept(self, name, argument)

    accept = cls.check_argument_for_proper_class
    lenient: Any = type(
        cls.__name__,
        (cls,),
        {"check_argument_for_proper_class": check, "__module__": cls.__module__},
    )
    with _without_number_words(cls):
        processor: Any = lenient.from_args_and_dict(parts, record)
    processor.__class__ = cls
    return processor


@contextmanager
def _without_number_words(cls: Any) -> Iterator[None]:
    """Let SmolVLM's processor be built without num2words, which it asks for at once and uses for videos alone."""
    module = sys.modules[cls.__module__]
    if getattr(module, "num2words", cls) is not None:
        yield
        return
    setattr(module, "num2words", str)  # noqa: B010  (the module's type has no such name)
    try:
        yield
    finally:
        setattr(module, "num2words", None)  # noqa: B010


def _complete(folder: Path, processor: Any, record: dict[str, Any], config: Any) -> None:
    """Take from the model's config what LLaVA's processors left out before transformers 4.47."""
    vision = getattr(config, "vision_config", None)
    if getattr(processor, "patch_size", 0) is None:
        processor.patch_size = getattr(vision, "patch_size", None)
        if processor.patch_size is None:
            raise DataError(
                f"{folder}: its processor has no patch_size, and config.json has none for the vision tower either; "
                f"write it into {_PROCESSOR}"
            )
    if getattr(processor, "vision_feature_select_strategy", "") is None:
        # ViP-LLaVA's config has none: the model never keeps the class token.
        chosen = getattr(config, "vision_feature_select_strategy", None)
        processor.vision_feature_select_strategy = chosen or "default"
    if (
        hasattr(processor, "num_additional_image_tokens")
        and record.get("num_additional_image_tokens") is None
    ):
        # The class token of the tower; CLIP has one, SigLIP has none.
        processor.num_additional_image_tokens = int(
            config.vision_config.model_type.startswith("clip")
        )
