"""The tokenizer of a bundle, without transformers, and text that grows token by token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moir_edge.bundle.files import ModelFiles
from moir_edge.errors import BundleError, DataError, MoirEdgeError, one_line
from moir_edge.json_files import read_bounded
from moir_edge.limits import TOKENIZER_BYTES

__all__ = ["EncodedText", "GrowingText", "Tokenizer"]

_NAMED_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_INCOMPLETE = "\ufffd"


@dataclass(frozen=True)
class EncodedText:
    """A tokenized string.

    Attributes:
        ids: Token ids.
        offsets: Per token, (start, end) in characters of the string; (0, 0) for added tokens.
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]


class Tokenizer:
    """`tokenizer.json` with the names that `tokenizer_config.json` gives to special tokens.

    Args:
        path: The `tokenizer.json` file.
        config: The object of `tokenizer_config.json`; empty if there is none.

    Raises:
        BundleError: The file is not a tokenizer.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer as Backend

        content = read_bounded(path, TOKENIZER_BYTES, error=BundleError)
        with rust_errors(BundleError, f"{path} is not a tokenizer file"):
            self._backend = Backend.from_buffer(content)
        # What the training code left in the file must not cut or pad prompts here.
        self._backend.no_truncation()
        self._backend.no_padding()
        self.special_tokens = _special_tokens(config)
        self.special_texts: dict[int, str] = {
            index: added.content
            for index, added in self._backend.get_added_tokens_decoder().items()
            if added.special
        }
        """Id to text of every token that `decode` leaves out."""

    @classmethod
    def of(cls, files: ModelFiles) -> Tokenizer:
        """Open the tokenizer of a checkpoint or bundle.

        Raises:
            BundleError: There is none, or a file of it cannot be read.
        """
        path = files.find("tokenizer.json")
        if path is None:
            raise BundleError(f"{files.folder} has no tokenizer.json; export the bundle again")
        return cls(path, files.object("tokenizer_config.json") or {})

    @property
    def backend(self) -> Any:
        """The `tokenizers.Tokenizer` behind."""
        return self._backend

    def encode(self, text: str, *, add_special_tokens: bool = True) -> EncodedText:
        """Tokenize a string; special tokens written in it become their ids.

        Raises:
            DataError: The tokenizer's own code fails on the text.
        """
        with rust_errors(DataError, "the tokenizer cannot take this prompt"):
            encoding = self._backend.encode(text, add_special_tokens=add_special_tokens)
        return EncodedText(tuple(encoding.ids), tuple(encoding.offsets))

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of token ids.

        Raises:
            DataError: The tokenizer's own code fails on them.
        """
        with rust_errors(DataError, "the tokenizer cannot give the text of this answer"):
            text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def token(self, token_id: int) -> str:
        """Return the token of an id.

        Raises:
            BundleError: The vocabulary has no such id.
        """
        token: str | None = self._backend.id_to_token(token_id)
        if token is None:
            raise BundleError(f"tokenizer.json has no token {token_id} that the manifest names")
        return token

    def grow(self) -> GrowingText:
        """Return an empty `GrowingText` of this tokenizer."""
        return GrowingText(self)


class GrowingText:
    """Text that is decoded while its tokens arrive; joined, the pieces equal the text decoded at once.

    (Broken UTF-8 under a byte-fallback tokenizer is the exception: decoded at once, a broken byte
    turns the valid byte tokens before it into replacement characters as well.)

    A piece is held back while it ends inside a multi-byte character. Only the last few tokens are
    decoded again at each step, so the cost per token does not grow with the text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0  # tokens before this one no longer change how later ones decode
        self._read = 0  # tokens before this one have been given out

    def push(self, token_id: int) -> str:
        """Add a token and return the text that became certain, possibly none."""
        self._ids.append(token_id)
        before, now = self._window()
        if len(now) <= len(before) or now.endswith(_INCOMPLETE):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return now[len(before) :]

    def finish(self) -> str:
        """Return what was held back, broken characters included."""
        before, now = self._window()
        self._start = self._read = len(self._ids)
        return now[len(before) :]

    def _window(self) -> tuple[str, str]:
        before = self._tokenizer.decode(self._ids[self._start : self._read])
        return before, self._tokenizer.decode(self._ids[self._start :])


@contextmanager
def rust_errors(kind: type[MoirEdgeError], what: str) -> Iterator[None]:
    """Raise `kind` for whatever the Rust code of `tokenizers` raises: a bare Exception, or a panic, which is not one.

    Args:
        kind: What to raise.
        what: The start of the message.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise kind(f"{what} ({one_line(error)})") from error


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the named special tokens, those under `extra_special_tokens` included."""
    extra = config.get("extra_special_tokens")
    named = {**config, **(extra if isinstance(extra, Mapping) else {})}
    found: dict[str, str] = {}
    for name, value in named.items():
        content = value.get("content") if isinstance(value, Mapping) else value
        if isinstance(content, str) and (name in _NAMED_TOKENS or name.endswith("_token")):
            found[name] = content
    return found
