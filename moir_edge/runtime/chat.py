"""Chat templates, rendered in the same sandbox and with the same switches as transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from moir_edge.bundle.files import ModelFiles
from moir_edge.errors import BundleError, DataError

__all__ = ["ChatTemplate", "Messages", "user_message", "user_turn"]

Messages: TypeAlias = "Sequence[Mapping[str, Any]]"


def user_message(prompt: str, *, images: int, context: str | None = None) -> list[dict[str, Any]]:
    """Return one user turn: all images first, then the context and the prompt as one text.

    Raises:
        DataError: The prompt is empty.
    """
    if not prompt.strip():
        raise DataError(
            "the prompt is empty; say what the model should answer, e.g. `prompt='What is it?'`"
        )
    return user_turn(f"{context} {prompt}" if context else prompt, images=images)


def user_turn(text: str, *, images: int) -> list[dict[str, Any]]:
    """Return one user turn of images and a text, which may be empty here."""
    parts: list[dict[str, Any]] = [{"type": "image"} for _ in range(images)]
    parts.append({"type": "text", "text": text})
    return [{"role": "user", "content": parts}]


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: The Jinja source.
        special_tokens: Names such as ``bos_token`` that the template may use.

    Raises:
        BundleError: The source is not a valid template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise BundleError(f"the chat template does not compile: {error}") from error
        self._special_tokens = dict(special_tokens)

    @classmethod
    def of(cls, files: ModelFiles, special_tokens: Mapping[str, str]) -> ChatTemplate:
        """Find the template of a checkpoint or bundle.

        Raises:
            BundleError: There is none, or the file that holds it cannot be read.
        """
        source = _find_source(files)
        if source is None:
            raise BundleError(
                f"{files.folder} has no chat template (chat_template.jinja); export a checkpoint that has one"
            )
        return cls(source, special_tokens)

    def render(self, messages: Messages, *, add_generation_prompt: bool = True) -> str:
        """Return the prompt of a conversation, one image token per image.

        Args:
            messages: Turns with ``role`` and ``content``, a string or a list of parts
                ``{"type": "image"}`` and ``{"type": "text", "text": …}``.
            add_generation_prompt: Open the assistant's turn at the end.

        Raises:
            DataError: The template refuses the conversation.
        """
        plain = json.loads(
            json.dumps(list(messages), default=lambda value: f"<{type(value).__name__}>")
        )
        try:
            return self._template.render(
                messages=plain,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except (TemplateError, TypeError, KeyError) as error:
            raise DataError(f"the chat template refuses this conversation: {error}") from error


class _GenerationTag(Extension):
    """Accept ``{% generation %}``, with which training code marks the assistant's words."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it as an instance attribute)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return what the block holds, unchanged."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _find_source(files: ModelFiles) -> str | None:
    source = files.text("chat_template.jinja")
    if source is not None:
        return source
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        found = (files.object(name) or {}).get("chat_template")
        if isinstance(found, str):
            return found
    return None


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(format_string: str) -> str:
    return datetime.now().strftime(format_string)
