"""Encode a conversation so that no control token comes from its words, only from the chat template.

1. In the conversation, the first character of whatever could become a control token gives way to a mark that nobody can guess.
2. The template renders it. Every control token in the result is the template's own, and gives way to a name.
3. The marks give way to their characters, and a tokenizer that knows the names alone encodes the whole.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.errors import DataError, UnsupportedError
from moir_edge.runtime.tokenizer import EncodedText, Tokenizer, rust_errors

__all__ = ["ControlTokens"]

_WORDS = ("role", "type")


class ControlTokens:
    """The control tokens of a tokenizer: those marked special, and those that the model counts to the prompt's frame.

    Args:
        tokenizer: Of the model.
        frame_ids: Ids of the frame's tokens, such as ``<row_1_col_2>``; those that were not added are left alone.

    Raises:
        UnsupportedError: Ids are missing from the vocabulary.
    """

    def __init__(self, tokenizer: Tokenizer, frame_ids: Collection[int] = ()) -> None:
        frame, added = set(frame_ids), tokenizer.backend.get_added_tokens_decoder()
        control = {
            index: token
            for index, token in added.items()
            if token.content and (token.special or index in frame)
        }
        nonce = secrets.token_hex(8)
        self._texts = {index: token.content for index, token in control.items()}
        self._names = {token.content: f"q{nonce}t{index}z" for index, token in control.items()}
        self._mark = f"q{nonce}x{{:x}}z"
        self._marks = re.compile(f"(?i:q{nonce}x([0-9a-f]+)z)")
        longest_first = sorted(control.values(), key=lambda token: -len(token.content))
        # Nothing matches where there is no control token.
        either = "|".join(re.escape(token.content) for token in longest_first) or "(?!)"
        self._beginnings = re.compile(f"(?={either})")
        alone = "|".join(map(_pattern, longest_first)) or "(?!)"
        self._pieces = re.compile(f"{self._marks.pattern}|({alone})")
        self._backend, self._own_ids = _renamed(tokenizer.backend, self._names)

    def marked(self, messages: Any, *, word: bool = False) -> Any:
        """Return a conversation whose strings hold no control token, nor a part of one at an end.

        Args:
            messages: Turns, or a part of one.
            word: A word that templates compare with their own, such as a role: whole control tokens alone are marked.
        """
        if isinstance(messages, str):
            return self._marked(messages, ends=not word)
        if isinstance(messages, Mapping):
            return {
                key: self.marked(value, word=word or key in _WORDS)
                for key, value in messages.items()
            }
        if isinstance(messages, Sequence) and not isinstance(messages, bytes | bytearray):
            return [self.marked(one, word=word) for one in messages]
        return messages

    def plain(self, text: str) -> str:
        """Return a rendered prompt with the characters in place of their marks."""
        return self._marks.sub(lambda found: chr(int(found[1], 16)), text)

    def encode(self, text: str, *, add_special_tokens: bool) -> EncodedText:
        """Tokenize a rendered prompt whose words are marked; offsets point into what `plain` returns.

        Raises:
            DataError: The vocabulary makes a control token of words all the same.
        """
        named, places = self._named(text)
        with rust_errors(DataError, "the tokenizer cannot take this prompt"):
            encoding = self._backend.encode(named, add_special_tokens=add_special_tokens)
        ids = []
        for token, added in zip(encoding.ids, encoding.special_tokens_mask, strict=True):
            if token in self._texts and token not in self._own_ids and not added:
                raise DataError(
                    f"the tokenizer makes the control token {self._texts[token]} of words in the prompt; leave it out"
                )
            ids.append(self._own_ids.get(token, token))
        offsets = ((int(places[start]), int(places[end])) for start, end in encoding.offsets)
        return EncodedText(tuple(ids), tuple(offsets))

    def _marked(self, text: str, *, ends: bool) -> str:
        at = {found.start() for found in self._beginnings.finditer(text)}
        if ends:
            at |= self._at_ends(text)
        pieces, done = [], 0
        for place in sorted(at):
            pieces += [text[done:place], self._mark.format(ord(text[place]))]
            done = place + 1
        return "".join([*pieces, text[done:]])

    def _at_ends(self, text: str) -> set[int]:
        """Return the places to mark so that text beside this one cannot complete a control token.

        White space at the ends may go, because templates trim it.
        """
        found: set[int] = set()
        for words in {text, text.strip()} - {""}:
            first = text.index(words)
            last = first + len(words)
            for token in self._names:
                lengths = range(1, min(len(token), len(words)) + 1)
                found |= {last - n for n in lengths if token.startswith(words[-n:])}
                if words in token or any(token.endswith(words[:n]) for n in lengths):
                    found.add(first)
        return found

    def _named(self, text: str) -> tuple[str, npt.NDArray[np.int64]]:
        """Return a prompt with names for control tokens and without marks, and the place of its characters in the plain one."""
        pieces: list[str] = []
        places: list[npt.NDArray[np.int64]] = []
        done = place = 0

        def add(piece: str, length: int) -> None:
            nonlocal place
            pieces.append(piece)
            places.append(place + np.minimum(np.arange(len(piece)), length))
            place += length

        for found in self._pieces.finditer(text):
            add(text[done : found.start()], found.start() - done)
            if found[1] is not None:
                add(chr(int(found[1], 16)), 1)
            else:
                add(self._names[found[2]], len(found[2]))
            done = found.end()
        add(text[done:], len(text) - done)
        return "".join(pieces), np.concatenate([*places, np.array([place])])


def _pattern(token: Any) -> str:
    """Return the pattern of a token's text; some are tokens only between characters of no word."""
    text = re.escape(token.content)
    return rf"(?<!\w){text}(?!\w)" if token.single_word else text


def _renamed(backend: Any, names: Mapping[str, str]) -> tuple[Any, dict[int, int]]:
    """Return a tokenizer with other names for its control tokens, and the own id of each added token by that in it."""
    from tokenizers import Tokenizer as Backend

    definition = json.loads(backend.to_str())
    for token in definition["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    renamed: Any = Backend.from_str(json.dumps(definition))
    own = {
        renamed.token_to_id(one["content"]): int(one["id"]) for one in definition["added_tokens"]
    }
    vocabulary = renamed.get_vocab(with_added_tokens=False)
    behind = {index for index in own if renamed.id_to_token(index) not in vocabulary}
    # New tokens are counted on from the size of the vocabulary, also where its ids reach beyond.
    if not behind.isdisjoint(vocabulary.values()):
        raise UnsupportedError(
            "the tokenizer's vocabulary has gaps, so its control tokens cannot be told from words; "
            "leave out `split_special_tokens=True`"
        )
    return renamed, own
