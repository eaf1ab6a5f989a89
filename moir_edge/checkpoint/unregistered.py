"""Say what export lacks for a vision-language model that is not in the registry, from its small files alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from moir_edge.errors import UnsupportedError
from moir_edge.json_files import read_json
from moir_edge.models import architecture_names, get_architecture
from moir_edge.models.layers import FULL, ROTARY, SLIDING, rotary_types
from moir_edge.runtime.image_processing import knows_image_processor

__all__ = ["check_registered"]

_PAGE = "docs/architectures.md (Add an architecture)"
# Config entries for what a language model does to its logits, and how many experts its layers have.
_AFTER_HEAD = ("logits_scaling", "logit_scale", "final_logit_softcapping")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def check_registered(folder: Path, config: Any) -> None:
    """Refuse a model type that is not in the registry, and list what is new about it.

    Args:
        folder: The checkpoint's folder; its weights are not read.
        config: Its Hugging Face config, of a vision-language model.

    Raises:
        UnsupportedError: Export does not know the type.
    """
    if config.model_type in architecture_names():
        return
    new = [part for find in _PARTS for part in find(folder, config)]
    raise UnsupportedError(
        f"{folder}: export does not know model type {config.model_type!r} (known: {', '.join(architecture_names())}); "
        f"new about it: {', '.join(new)}; {_PAGE} says how to add it, and retrofit and tune take every class that takes a "
        "router (docs/families.md)"
    )


def _tower(folder: Path, config: Any) -> Iterator[str]:
    del folder
    vision = getattr(config, "vision_config", None)
    if vision is None:
        yield "where its image encoder is (config.json has no vision_config)"
        return
    tower = getattr(vision, "model_type", "")
    if tower not in {name for known in architecture_names() for name in _facts(known).towers}:
        yield f"the vision tower {tower!r}"


def _image_processor(folder: Path, config: Any) -> Iterator[str]:
    stated = _stated_image_processor(folder) or _usual_image_processor(config.model_type)
    if stated is None:
        yield "its image processor (no file names one)"
    elif not knows_image_processor(stated):
        yield f"the image processor {stated.removesuffix('Pil')}"


def _prompt(folder: Path, config: Any) -> Iterator[str]:
    from transformers.models.auto import processing_auto as untyped

    del folder
    table: Any = untyped
    named = table.PROCESSOR_MAPPING_NAMES.get(config.model_type)
    yield f"the prompt layout of {named}" if named else "its prompt layout"


def _language_model(folder: Path, config: Any) -> Iterator[str]:
    del folder
    text = config.get_text_config()
    name = f"the language model {text.model_type!r}"
    if kinds := sorted(set(getattr(text, "layer_types", None) or ()) - {FULL, SLIDING}):
        yield f"layers of {', '.join(kinds)} in {name}"
    if kinds := [kind for kind in rotary_types(text) if kind not in ROTARY]:
        yield f"the rotary embedding {', '.join(kinds)} of {name}"
    for entry in _EXPERTS:
        if (getattr(text, entry, None) or 0) > 1:
            yield f"the experts of {name} ({entry})"
            break
    for entry in _AFTER_HEAD:
        if getattr(text, entry, None) not in (None, 1, 1.0):
            yield f"the arithmetic after the head of {name} ({entry})"


def _positions(folder: Path, config: Any) -> Iterator[str]:
    del folder
    rotary = getattr(config.get_text_config(), "rope_parameters", None) or {}
    sections = rotary.get("mrope_section") or rotary.get("xdrope_section")
    axes = len(sections) if sections else 1
    if axes not in {_facts(known).position_axes for known in architecture_names()}:
        yield f"{axes} position numbers per token"
    elif axes > 1:
        yield f"how its {axes} position numbers per token are counted"


_PARTS: tuple[Callable[[Path, Any], Iterator[str]], ...] = (
    _tower,
    _image_processor,
    _prompt,
    _language_model,
    _positions,
)


def _facts(model_type: str) -> Any:
    return get_architecture(model_type)


def _stated_image_processor(folder: Path) -> str | None:
    """Return the class that the checkpoint's files name."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        record = read_json(folder / name) if (folder / name).is_file() else None
        if not isinstance(record, dict):
            continue
        nested = record.get("image_processor")
        images = nested if isinstance(nested, dict) else record
        for key in ("image_processor_type", "feature_extractor_type"):
            if isinstance(images.get(key), str):
                return str(images[key])
    return None


def _usual_image_processor(model_type: str) -> str | None:
    """Return the class that transformers takes for a model type where no file names one."""
    from transformers.models.auto import image_processing_auto as untyped

    table: Any = untyped
    found = table.IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type)
    if isinstance(found, dict):
        found = found.get("pil") or next(iter(found.values()), None)
    if isinstance(found, tuple | list):
        found = next((name for name in found if name), None)
    return None if found is None else str(found)
