"""Chat templates, rendered in the same sandbox and with the same switches as transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from moir_edge.bundle.files import ModelFiles
from moir_edge.errors import BundleError, DataError, one_line
from moir_edge.limits import TEMPLATE_BYTES, TEMPLATE_WORK
from moir_edge.runtime.template_sandbox import BoundedSandbox, weight

__all__ = ["ChatTemplate", "Messages", "user_message", "user_turn"]

_COPIES = 64  # of the conversation that a template may make
_LONGEST_CONVERSATION = 1 << 24

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
        if len(source) > TEMPLATE_BYTES:
            raise BundleError(
                f"the chat template has {len(source):,} characters, the most that is compiled is {TEMPLATE_BYTES:,}"
            )
        self._sandbox = BoundedSandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        self._sandbox.globals["raise_exception"] = _raise_exception
        self._sandbox.globals["strftime_now"] = _strftime_now
        try:
            self._template = self._sandbox.template(source)
        except (
            Exception
        ) as error:  # also Python's compiler refuses, as blocks that are nested too deeply
            raise BundleError(f"the chat template does not compile: {one_line(error)}") from error
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
        try:
            plain = json.loads(
                json.dumps(list(messages), default=lambda value: f"<{type(value).__name__}>")
            )
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(
                f"the conversation cannot be written as JSON ({one_line(error)}); give a list of turns"
            ) from error
        values = {
            "messages": plain,
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **self._special_tokens,
        }
        try:
            return "".join(self._sandbox.pieces(self._template, values, _work_for(plain)))
        except Exception as error:  # a template may raise whatever its filters and methods do
            raise DataError(
                f"the chat template refuses this conversation: {one_line(error)}"
            ) from error


def _work_for(messages: list[Any]) -> int:
    return TEMPLATE_WORK + _COPIES * weight(messages, _LONGEST_CONVERSATION)


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


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(format_string: str) -> str:
    return datetime.now().strftime(format_string)
