"""Prompts as callers give them: a string or a conversation, one or a batch, with images in as many forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from moir_edge.arguments import wrong_type
from moir_edge.errors import DataError
from moir_edge.runtime.chat import Messages, user_message
from moir_edge.runtime.images import ImageInput

__all__ = ["Images", "Prompt", "conversations_of"]

Prompt: TypeAlias = "str | Messages"
Images: TypeAlias = "ImageInput | Sequence[ImageInput] | None"


def conversations_of(
    prompts: Any, images: Any, context: Any
) -> tuple[list[Messages], list[list[ImageInput]]]:
    """Return one conversation and one list of images per row, whatever form they came in.

    Args:
        prompts: One prompt or a batch.
        images: One image, a list of images or none; for a batch, an entry for each prompt.
        context: A sentence put before each prompt, or one for each.

    Raises:
        DataError: One of them has a wrong type, or there are not as many of one as of another.
    """
    if _is_single(prompts):
        prompts, images = [prompts], [images]
    if not isinstance(prompts, list | tuple):
        raise wrong_type("prompts", prompts, "a string, a conversation, or a list of them")
    if images is None:
        images = [None] * len(prompts)
    contexts = [context] * len(prompts) if context is None or isinstance(context, str) else context
    for name, rows in (("images", images), ("context", contexts)):
        if isinstance(rows, str) or not isinstance(rows, Sequence) or len(rows) != len(prompts):
            raise DataError(
                f"{len(prompts)} prompt(s) need as many entries in {name}, one per prompt"
            )
    pictures = [_as_list(entry) for entry in images]
    conversations = [
        _conversation(prompt, len(own), text)
        for prompt, own, text in zip(prompts, pictures, contexts, strict=True)
    ]
    if not conversations:
        raise DataError("no prompt was given; give at least one")
    return conversations, pictures


def _is_single(prompts: Any) -> bool:
    if isinstance(prompts, list | tuple):
        return bool(prompts) and isinstance(prompts[0], Mapping)
    return isinstance(prompts, str)


def _as_list(images: Any) -> list[ImageInput]:
    if images is None:
        return []
    return list(images) if isinstance(images, list | tuple) else [images]


def _conversation(prompt: Prompt, images: int, context: str | None) -> Messages:
    if context is not None and not isinstance(context, str):
        raise wrong_type("context", context, "a string")
    if isinstance(prompt, str):
        return user_message(prompt, images=images, context=context)
    if not isinstance(prompt, list | tuple) or not all(
        isinstance(turn, Mapping) for turn in prompt
    ):
        raise wrong_type("a prompt", prompt, "a string, or a list of turns with role and content")
    if context:
        raise DataError("context goes with a string prompt; write it into the conversation instead")
    return prompt
