"""Bound the characters of a prompt before it is rendered or tokenized."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from moir_edge.errors import DataError
from moir_edge.limits import CHARACTERS_PER_TOKEN, CONVERSATION_DEPTH, CONVERSATION_PARTS

__all__ = ["PromptBound", "characters_of"]

# Four characters at most become one where accents are composed, as with U+1F82.
_SHRINKING_NORMALIZERS = {"NFC": 4, "NFKC": 4}
_KEEPING_NORMALIZERS = ("Prepend", "Lowercase", "NFD", "NFKD", "ByteLevel")
_KEEPING_PRE_TOKENIZERS = ("ByteLevel", "Metaspace", "Digits", "UnicodeScripts", "FixedLength")
_SPLITTING_PRE_TOKENIZERS = ("Split", "Punctuation")


class PromptBound:
    """The characters that a model's context can hold.

    The bound is the context length times the characters of the longest token. So a prompt that is refused has more tokens than the
    context holds, whatever it says. A few tokenizers drop white space, or make one token of any run of unknown characters: they
    bound nothing, and `limits.CHARACTERS_PER_TOKEN` stands in for the longest token.

    Args:
        backend: A `tokenizers.Tokenizer`.
        context_length: Tokens of prompt and answer together.
    """

    def __init__(self, backend: Any, context_length: int) -> None:
        self._backend = backend
        self._tokens = context_length - 1  # at least one is the answer's

    @cached_property
    def most_characters(self) -> int:
        """The largest number of characters that may fit."""
        return self._tokens * (_characters_per_token(self._backend) or CHARACTERS_PER_TOKEN)

    def check(self, characters: int) -> None:
        """Refuse a prompt that cannot fit.

        Args:
            characters: Of the conversation, or of the rendered prompt before image tokens are repeated.

        Raises:
            DataError: It has more characters than the context can hold.
        """
        # The vocabulary is looked at for long prompts alone.
        if characters > self._tokens and characters > self.most_characters:
            raise DataError(
                f"the prompt has {characters} characters, and the model's context of {self._tokens + 1} tokens holds "
                f"{self.most_characters} at most; shorten the prompt"
            )


def characters_of(messages: Any) -> int:
    """Return the characters of all strings in a conversation, white space around each left out, which templates trim.

    Raises:
        DataError: It is nested deeper than any conversation, holds itself, or has more parts than any.
    """
    characters = parts = 0
    left = [(messages, 0)]
    while left:
        one, depth = left.pop()
        parts += 1
        if depth > CONVERSATION_DEPTH or parts > CONVERSATION_PARTS:
            raise DataError(
                f"the conversation is nested deeper than {CONVERSATION_DEPTH} levels or has more than {CONVERSATION_PARTS} "
                "parts; give turns with role and content"
            )
        if isinstance(one, str):
            characters += len(one.strip())
        elif isinstance(one, Mapping):
            # What a part is, such as "text", is not written into the prompt.
            left += [(value, depth + 1) for key, value in one.items() if key != "type"]
        elif isinstance(one, Sequence) and not isinstance(one, bytes | bytearray):
            left += [(value, depth + 1) for value in one]
    return characters


def _characters_per_token(backend: Any) -> int | None:
    """Return how many characters one token can stand for at most; None where nothing bounds them."""
    shrinks = _shrinks(_definition(backend.normalizer))
    if shrinks is None or not _keeps(_definition(backend.pre_tokenizer)):
        return None
    if not _counts_unknown(backend):
        return None
    if any(token.lstrip or token.rstrip for token in backend.get_added_tokens_decoder().values()):
        return None  # such a token takes the white space around it
    return shrinks * max(map(len, backend.get_vocab()), default=1)


def _definition(part: Any) -> dict[str, Any]:
    """Return the JSON object of a part of the tokenizer; of a part that is missing, an empty one."""
    return {} if part is None else dict(json.loads(part.__getstate__()))


def _shrinks(normalizer: Mapping[str, Any]) -> int | None:
    """Return how many characters a normalizer turns into one at most; None where any number may go."""
    kind = normalizer.get("type")
    if kind is None or kind in _KEEPING_NORMALIZERS:
        return 1
    if kind == "Replace":
        pattern = normalizer["pattern"].get("String", "")
        return 1 if 0 < len(pattern) <= len(normalizer["content"]) else None
    if kind == "Sequence":
        product = 1
        for one in map(_shrinks, normalizer["normalizers"]):
            if one is None:
                return None
            product *= one
        return product
    return _SHRINKING_NORMALIZERS.get(kind)


def _keeps(pre_tokenizer: Mapping[str, Any]) -> bool:
    """Whether every character stays in one of the words."""
    kind = pre_tokenizer.get("type")
    if kind == "Sequence":
        return all(map(_keeps, pre_tokenizer["pretokenizers"]))
    if kind in _SPLITTING_PRE_TOKENIZERS:
        return str(pre_tokenizer["behavior"]) != "Removed"
    return kind is None or kind in _KEEPING_PRE_TOKENIZERS


def _counts_unknown(backend: Any) -> bool:
    """Whether characters that the vocabulary lacks become tokens, each one at least."""
    model = backend.model
    if type(model).__name__ == "BPE" and model.unk_token is not None and not model.fuse_unk:
        return True
    if getattr(model, "byte_fallback", False):
        return _has_all(backend, (f"<0x{byte:02X}>" for byte in range(256)))
    from tokenizers.pre_tokenizers import ByteLevel

    parts = (backend.normalizer, backend.pre_tokenizer)
    in_bytes = any('"ByteLevel"' in json.dumps(_definition(part)) for part in parts)
    return type(model).__name__ == "BPE" and in_bytes and _has_all(backend, ByteLevel.alphabet())


def _has_all(backend: Any, tokens: Any) -> bool:
    return all(backend.token_to_id(token) is not None for token in tokens)
