"""The transformers class that a checkpoint's config asks for; code that a checkpoint brings itself is never run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moir_edge.arguments import given_path, mapping
from moir_edge.checked import checked, has
from moir_edge.errors import UnsupportedError
from moir_edge.json_files import read_json
from moir_edge.weights.libraries import naming_files
from moir_edge.weights.own_code import reset_implementations
from moir_edge.weights.timm_towers import prepare_timm

__all__ = ["check_known", "generative_class", "load_config", "refuse_own_model"]


@checked(config=mapping)
def check_known(name: str | Path, config: Mapping[str, Any]) -> None:
    """Refuse a `model_type` that transformers does not have.

    Args:
        name: How messages call the checkpoint.
        config: The object in its config.json.

    Raises:
        UnsupportedError: The type is unknown, or its code comes with the checkpoint.
    """
    refuse_own_model(name, config)
    if (lacks := _lacks(config)) is not None:
        raise UnsupportedError(
            f"{name}: {lacks}; check the spelling, update transformers, or give a conversion to its own classes (often "
            "published with -hf in its name)"
        )


def refuse_own_model(name: str | Path, config: Mapping[str, Any]) -> None:
    """Refuse a model whose code comes with the checkpoint; of a `model_type` that transformers has, the code is not needed.

    Args:
        name: How messages call the checkpoint.
        config: The object in its config.json.

    Raises:
        UnsupportedError: The type is unknown and the config has an `auto_map`.
    """
    if config.get("auto_map") and (lacks := _lacks(config)) is not None:
        raise UnsupportedError(
            f"{name} comes with Python code of its own (auto_map in config.json), which moir-edge never runs, "
            f"and {lacks}; give a conversion to transformers' own classes (often published with -hf in its name)"
        )


def _lacks(config: Mapping[str, Any]) -> str | None:
    """Return that transformers does not have the `model_type`; None if it does."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if config.get("model_type") in CONFIG_MAPPING:
        return None
    return f"transformers {transformers.__version__} has no model_type {config.get('model_type')!r}"


@checked(folder=given_path)
def load_config(folder: Path) -> Any:
    """Return a checkpoint's Hugging Face config; transformers chooses how attention is computed, not the file.

    Raises:
        DataError: transformers refuses it.
        UnsupportedError: It asks for code that comes from somewhere else.
        EnvironmentProblem: Its vision tower is one of timm, which is not installed.
    """
    from transformers import AutoConfig

    path = folder / "config.json"
    if isinstance(record := read_json(path), dict):
        prepare_timm(folder, record)
    with naming_files(f"{path} cannot be used"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    reset_implementations(path, config)
    return config


@checked(config=has("a config of transformers", "to_dict", "model_type"))
def generative_class(config: Any, name: str | Path) -> Any:
    """Return the class that transformers' image-text-to-text auto class would load.

    Args:
        config: A Hugging Face config.
        name: How messages call the checkpoint.

    Raises:
        UnsupportedError: The config is not that of a vision-language model.
    """
    from transformers import AutoModelForImageTextToText

    mapping: Any = AutoModelForImageTextToText._model_mapping
    if type(config) not in mapping:
        raise UnsupportedError(
            f"{name}: model type {config.model_type!r} is not a vision-language model of transformers{_instead(config)}; "
            "give one that reads images and text and writes an answer, such as SmolVLM or LLaVA"
        )
    found = mapping[type(config)]
    candidates = found if isinstance(found, tuple) else (found,)
    named = [item for item in candidates if item.__name__ in (config.architectures or ())]
    return (named or candidates)[0]


# What transformers' tables of classes say of a model type that is not in the table of vision-language models.
_OTHERS: tuple[tuple[str, str], ...] = (
    ("SpeechSeq2Seq", "but a model of speech"),
    ("CTC", "but a model of speech"),
    ("CausalLM", "but a language model that reads text alone"),
    ("Seq2SeqLM", "but a language model that reads text alone"),
    ("MaskedLM", "but an encoder of text"),
    ("ZeroShotImageClassification", "but a pair of encoders, which compares images with texts and writes nothing"),
    ("ImageClassification", "but an encoder of images"),
)  # fmt: skip


def _instead(config: Any) -> str:
    """Return what a model type is, as far as transformers' tables tell."""
    import transformers

    for table, what in _OTHERS:
        mapping: Any = getattr(transformers, f"AutoModelFor{table}")._model_mapping
        if type(config) in mapping:
            return f", {what}"
    return ", but an encoder of images" if "vision" in config.model_type else ""
