"""The id that fills short rows of a batch: a token that has a row in the embedding table, whatever the files say."""

from __future__ import annotations

from typing import Any

from moir_edge.errors import DataError
from moir_edge.router.frame_tokens import token_id_sources

__all__ = ["end_ids", "padding_id", "padding_note"]


def end_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return the ids that end an answer, as the most binding of the files names them.

    Raises:
        DataError: None of them does, or it names something else than ids.
    """
    for source in _sources(model, tokenizer):
        found = getattr(source, "eos_token_id", None)
        if found is None:
            continue
        ids = [found] if isinstance(found, int) else found
        if not isinstance(ids, list | tuple) or not all(type(one) is int for one in ids):
            raise DataError(
                f"{model.name_or_path}: eos_token_id is {found!r:.60}; it must be a token id or a list of them"
            )
        return tuple(ids)
    raise DataError(
        f"{model.name_or_path} names no eos_token_id, so generation could never stop; "
        "set it in generation_config.json"
    )


def padding_id(model: Any, tokenizer: Any) -> int:
    """Return the first padding id of the files that the embedding table has a row for.

    Where none has, the id that ends an answer serves: padding is masked.

    Raises:
        DataError: No file names an end of the answer either.
    """
    rows = _table_rows(model)
    for found in _named(model, tokenizer):
        if 0 <= found < rows:
            return found
    return end_ids(model, tokenizer)[0]


def padding_note(model: Any, tokenizer: Any) -> str | None:
    """Say that the padding id that the files name first is not the one that is used, or return None."""
    named = _named(model, tokenizer)
    used = padding_id(model, tokenizer)
    if not named or named[0] == used:
        return None
    return (
        f"pad_token_id {named[0]} has no row in the embedding table ({_table_rows(model)} rows); "
        f"padding is masked, so token {used} is used for it"
    )


def _named(model: Any, tokenizer: Any) -> list[int]:
    found = [getattr(source, "pad_token_id", None) for source in _sources(model, tokenizer)]
    return [token for token in found if isinstance(token, int) and token >= 0]


def _sources(model: Any, tokenizer: Any) -> tuple[Any, ...]:
    return (*token_id_sources(model), tokenizer)


def _table_rows(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])
