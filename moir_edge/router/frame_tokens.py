"""Find the frame tokens of a prompt: marks, which never take part in routing, and newlines."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from moir_edge.checked import a_tokenizer, checked
from moir_edge.errors import DataError, one_line
from moir_edge.json_files import read_json
from moir_edge.weights import refuse_own_class

__all__ = ["frame_record", "newline_token_ids", "special_token_ids"]

# How tokenizers write a mark of the prompt's frame, such as <row_1_col_2> or [IMG_BREAK].
_MARK = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
# How they write line ends: as they are, in byte-level letters, and as bytes of a SentencePiece vocabulary.
_LINE_ENDS = re.compile("(?:[\n\r\u010a\u010d]|<0x0[AD]>)+")
_TOKENIZER_CONFIG = "tokenizer_config.json"
_TOKENIZER_FILES = ("tokenizer.json", _TOKENIZER_CONFIG, "tokenizer.model")


@checked(tokenizer=a_tokenizer)
def special_token_ids(tokenizer: Any) -> tuple[int, ...]:
    """Return the ids that never take part in routing: added tokens that are marked special or written as a mark.

    `all_special_ids` alone is not enough: a reloaded tokenizer leaves out marks such as SmolVLM's ``<global-img>``,
    and some tokenizers add ``<row_1_col_2>`` without marking it special.

    Args:
        tokenizer: A Hugging Face tokenizer, or a processor that holds one.
    """
    tokenizer = _inner(tokenizer)
    marked = (
        index
        for index, token in tokenizer.added_tokens_decoder.items()
        if token.special or _MARK.fullmatch(token.content)
    )
    return tuple(sorted({*tokenizer.all_special_ids, *marked}))


@checked(tokenizer=a_tokenizer)
def newline_token_ids(tokenizer: Any) -> tuple[int, ...]:
    """Return the ids of the tokens that hold line ends and nothing else, such as one newline or two.

    Args:
        tokenizer: A Hugging Face tokenizer, or a processor that holds one.
    """
    tokenizer = _inner(tokenizer)
    frame = set(special_token_ids(tokenizer))
    found = []
    for token, index in tokenizer.get_vocab().items():
        if index in frame or not _LINE_ENDS.fullmatch(token):
            continue
        # The spelling alone does not tell: a vocabulary of characters may hold the letter that stands for a byte.
        text = tokenizer.decode([index])
        if text and not text.strip("\r\n"):
            found.append(index)
    return tuple(sorted(found))


def frame_record(
    model: Any, tokenizer: Any | None, special_ids: Iterable[int] | None
) -> dict[str, list[int]]:
    """Return what the config of a retrofitted model says about the frame of its prompts.

    Args:
        model: The Hugging Face model.
        tokenizer: Its tokenizer or processor; None looks for one beside the model's weights, and takes the begin, end
            and padding ids that the model's config names where there is none.
        special_ids: Ids to take instead; then only a given `tokenizer` says which tokens are newlines.

    Raises:
        DataError: The tokenizer beside the weights cannot be read.
        UnsupportedError: Its class comes with the checkpoint.
    """
    if tokenizer is None and special_ids is None:
        tokenizer = _tokenizer_beside(str(getattr(model, "name_or_path", "")))
    if special_ids is None:
        special_ids = _named_ids(model) | set(special_token_ids(tokenizer) if tokenizer else ())
    newlines = newline_token_ids(tokenizer) if tokenizer else ()
    return {
        "special_token_ids": sorted({int(item) for item in special_ids}),
        "newline_token_ids": list(newlines),
    }


def _inner(tokenizer: Any) -> Any:
    """Return the tokenizer of a processor, and a tokenizer as it is."""
    return getattr(tokenizer, "tokenizer", tokenizer)


def _tokenizer_beside(name: str) -> Any | None:
    """Return the tokenizer in the folder or in the local copy of the hub id that a model came from, or None."""
    from transformers import AutoTokenizer

    # A name that no weights were loaded from is empty; nothing is fetched for a hub id.
    folder = Path(name) if Path(name).is_dir() else _local_copy(name) if name else None
    present = [file for file in _TOKENIZER_FILES if folder and (folder / file).is_file()]
    if folder is None or not present:
        return None
    if _TOKENIZER_CONFIG in present:
        path = folder / _TOKENIZER_CONFIG
        refuse_own_class(path, read_json(path), "tokenizer_class")
    tokenizers: Any = AutoTokenizer  # its from_pretrained is not typed
    try:
        return tokenizers.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise DataError(
            f"retrofit: the tokenizer of {name} cannot be read ({one_line(error)}); pass tokenizer= or special_token_ids="
        ) from error


def _local_copy(name: str) -> Path | None:
    """Return the folder that holds the tokenizer of a hub id in the cache of the hub, or None."""
    from transformers.utils.hub import cached_file

    for file in _TOKENIZER_FILES:
        found = cached_file(
            name,
            file,
            local_files_only=True,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
        if found:
            return Path(found).parent
    return None


def token_id_sources(model: Any) -> tuple[Any, ...]:
    """Return the configs of a model that may name begin, end and padding ids, the most binding first.

    The top-level config is left out where its class answers for the padding id with a number of its own, whatever the
    file says, and warns: SmolVLM's do.
    """
    config = model.config
    own = [] if isinstance(getattr(type(config), "pad_token_id", None), property) else [config]
    return (getattr(model, "generation_config", None), *own, config.get_text_config())


def _named_ids(model: Any) -> set[int]:
    """Return the begin, end and padding ids that the model's configs name."""
    found: set[int] = set()
    for config in token_id_sources(model):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(config, name, None)
            found.update(
                value if isinstance(value, (list, tuple)) else [value] if value is not None else []
            )
    return found
