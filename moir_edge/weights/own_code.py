"""Refuse code that a checkpoint brings or sends for: it is never run, and nobody is asked whether it may."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moir_edge.errors import UnsupportedError

__all__ = ["refuse_own_class", "refuse_trust", "reset_implementations"]


def refuse_own_class(path: Path, record: Any, key: str) -> None:
    """Refuse a class that comes with the checkpoint; one that transformers has too is loaded without the code beside it.

    Args:
        path: The file, for the message.
        record: Its content, or the part of it that describes one object.
        key: The entry that names the class, such as ``"tokenizer_class"``.

    Raises:
        UnsupportedError: The record has an `auto_map`, and transformers has no class of the name.
    """
    import transformers

    if not isinstance(record, Mapping) or not record.get("auto_map"):
        return
    named = record.get(key)
    # transformers 5 dropped the ending from the names of its classes
    if not isinstance(named, str) or {named, named.removesuffix("Fast")} & {*dir(transformers)}:
        return
    raise UnsupportedError(
        f"{path} names the {key} {named!r} in Python code that comes with the checkpoint (auto_map), which moir-edge "
        f"never runs, and transformers {transformers.__version__} has no such class; save it with a class of transformers"
    )


def reset_implementations(path: Path, config: Any) -> None:
    """Let transformers choose how attention is computed, whatever config.json says.

    A name with a slash is that of a program on the hub, which transformers would fetch and run.

    Args:
        path: The file, for the message.
        config: The Hugging Face config that was read from it; changed in place.

    Raises:
        UnsupportedError: The file asks for a program on the hub.
    """
    for key in ("attn_implementation", "experts_implementation"):
        asked = getattr(config, f"_{key}", None)
        if isinstance(asked, str) and "/" in asked:
            raise UnsupportedError(
                f"{path} asks for the program {asked!r} on the hub ({key}), which moir-edge never runs; "
                f"take {key} out of the file"
            )
        setattr(config, f"_{key}", None)


def refuse_trust(arguments: Mapping[str, Any]) -> None:
    """Refuse the arguments of `from_pretrained` that allow such code.

    Raises:
        UnsupportedError: One of them is set.
    """
    for name in ("trust_remote_code", "allow_all_kernels", "use_kernels"):
        if arguments.get(name):
            raise UnsupportedError(
                f"{name}={arguments[name]!r}: code that a checkpoint brings is never run; leave {name} out"
            )
