"""From the messages of a request to turns as the chat template takes them, and their images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from moir_edge.serve.errors import ApiError
from moir_edge.serve.images import ImageSources
from moir_edge.serve.requests import ImagePart, Message, TextPart

__all__ = ["conversation_of", "size_of"]


def conversation_of(
    messages: Sequence[Message], sources: ImageSources, most_images: int
) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Return the turns, one ``{"type": "image"}`` for each image, and the images' files in order.

    Args:
        messages: Of the request.
        sources: Where images may come from.
        most_images: Images at most.

    Raises:
        ApiError: An image may not be used, or there are too many.
    """
    turns: list[dict[str, Any]] = []
    images: list[bytes] = []
    for at, message in enumerate(messages):
        role = "system" if message.role == "developer" else message.role
        parts: list[dict[str, Any]] = []
        content = message.content
        if isinstance(content, str):
            content = [TextPart(type="text", text=content)]
        for number, part in enumerate(content):
            if isinstance(part, TextPart):
                parts.append({"type": "text", "text": part.text})
                continue
            if len(images) >= most_images:
                raise ApiError(
                    400,
                    f"the request holds more than {most_images} images, the most that this server takes",
                    param="messages",
                )
            where = f"messages[{at}].content[{number}].image_url.url"
            images.append(sources.read(part.image_url.url, where))
            parts.append({"type": "image"})
        turns.append({"role": role, "content": parts})
    return turns, images


def size_of(messages: Sequence[Message]) -> float:
    """Return the characters of all data URLs; infinite where an image has to be fetched."""
    urls = [
        part.image_url.url
        for message in messages
        if isinstance(message.content, list)
        for part in message.content
        if isinstance(part, ImagePart)
    ]
    return sum(len(url) if url[:5].lower() == "data:" else math.inf for url in urls)
