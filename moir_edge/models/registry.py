"""The table of architectures, by Hugging Face `model_type`."""

from __future__ import annotations

from moir_edge.errors import UnsupportedError, closest
from moir_edge.models.base import Architecture

__all__ = ["architecture_names", "get_architecture", "own_template", "register"]

_ARCHITECTURES: dict[str, Architecture] = {}


def register(architecture: type[Architecture]) -> type[Architecture]:
    """Put an architecture in the table; use it as a class decorator.

    Raises:
        ValueError: Its `model_type` is taken.
    """
    name = architecture.model_type
    if name in _ARCHITECTURES:
        raise ValueError(f"model_type {name!r} is registered already")
    _ARCHITECTURES[name] = architecture()
    return architecture


def architecture_names() -> tuple[str, ...]:
    """Return every known `model_type`, sorted."""
    return tuple(sorted(_ARCHITECTURES))


def get_architecture(model_type: str) -> Architecture:
    """Return the facts of a `model_type`.

    Raises:
        UnsupportedError: It is unknown; the message lists the known ones.
    """
    found = _ARCHITECTURES.get(model_type)
    if found is None:
        raise UnsupportedError(
            f"export does not know model type {model_type!r}: {closest(model_type, _ARCHITECTURES)}"
        )
    return found


def own_template(model_type: str) -> str | None:
    """Return the chat template of a `model_type` that is published without one; None for every other type."""
    found = _ARCHITECTURES.get(model_type)
    return None if found is None else found.chat_template
