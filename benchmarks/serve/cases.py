"""Mixed requests whose answers are known from single runs of the runtime."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from moir_edge.runtime import EdgeModel

__all__ = ["Answer", "Case", "mixed_cases"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """All of an answer that must be equal."""

    text: str
    finish_reason: str
    prompt_tokens: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Case:
    """A request.

    Attributes:
        prompt: The question.
        images: Files of images.
        stream: Ask for a stream.
        settings: Fields of the request by their names in OpenAI's API, and `router`.
    """

    prompt: str
    images: tuple[bytes, ...]
    stream: bool
    settings: dict[str, Any]

    @cached_property
    def body(self) -> dict[str, Any]:
        """The JSON of the request."""
        urls = ["data:image/png;base64," + base64.b64encode(one).decode() for one in self.images]
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        content = [*parts, {"type": "text", "text": self.prompt}]
        body = {"model": "demo", "messages": [{"role": "user", "content": content}]}
        options = {"stream": True, "stream_options": {"include_usage": True}}
        return {**body, **self.settings, **(options if self.stream else {})}

    def single(self, model: EdgeModel) -> Answer:
        """Return the answer of a single run."""
        own = dict(self.settings)
        own["max_new_tokens"] = own.pop("max_tokens")
        own["router"] = own["router"] == "on"
        done = model.generate(self.prompt, list(self.images), **own)
        return Answer(
            text=done.texts[0],
            finish_reason="length" if done.finish_reasons[0] == "length" else "stop",
            prompt_tokens=done.prompt_tokens[0],
            tokens=len(done.token_ids[0]),
        )


def mixed_cases(count: int, seed: int = 0) -> Sequence[Case]:
    """Return requests that differ in words, images, router, drawing, length and form.

    Args:
        count: How many.
        seed: Of all of it.
    """
    from moir_edge.demo import demo_rows

    rows = [row for row in demo_rows("test", count=40, seed=seed, tasks=("vqa",)) if row.images]
    generator = random.Random(seed)
    return [_case(generator, rows) for _ in range(count)]


def _case(generator: random.Random, rows: Sequence[Any]) -> Case:
    row = generator.choice(rows)
    images = [_file(image) for image in (*row.images, *generator.choice(rows).images)]
    drawn = generator.random() < 0.3
    settings = {
        "max_tokens": generator.choice((1, 4, 12)),
        "router": generator.choice(("on", "on", "off")),
        **({"temperature": 0.9, "seed": generator.randrange(1000)} if drawn else {}),
    }
    return Case(
        prompt=row.prompt,
        images=tuple(images[: generator.choice((0, 1, 1, 2))]),
        stream=generator.random() < 0.5,
        settings=settings,
    )


def _file(image: Any) -> bytes:
    """Return an image of a row as a PNG file."""
    if isinstance(image, str | Path):
        return Path(image).read_bytes()
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, "PNG")
    return stream.getvalue()
