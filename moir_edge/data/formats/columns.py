"""Find the columns of a table by the names of published data sets, or by the user's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from moir_edge.errors import DataError, UnsupportedError, closest

__all__ = ["COLUMN_NAMES", "answers_of", "check_roles", "choose_columns", "text_of"]

COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    "images": ("images", "image", "img", "picture", "jpg", "png"),
    "prompt": ("prompt", "question", "query", "sentence", "statement", "instruction"),
    "context": ("context", "hint"),
    "answers": ("answers", "answer", "captions", "caption", "label"),
    "id": ("id", "question_id", "identifier", "uid"),
    "group": ("group",),
    "task": (),
}
"""Role to the names by which a column is taken for it, best first; `task` is taken only where the user names it."""


def check_roles(columns: Mapping[str, str], flag: str) -> None:
    """Raise `UnsupportedError` where a role is none of `COLUMN_NAMES`."""
    for role in columns:
        if role not in COLUMN_NAMES:
            raise UnsupportedError(f"{flag} {role}=: {closest(role, COLUMN_NAMES)}")


def choose_columns(
    present: Iterable[str],
    images: Iterable[str],
    named: Mapping[str, str],
    where: str,
    flag: str,
) -> dict[str, tuple[str, ...]]:
    """Return the columns of each role; a role that no column has is left out.

    Args:
        present: The columns of the table.
        images: Those whose type says that they hold images.
        named: Role to column as the user has it; `images` may name several, with commas, in the model's order.
        where: The data set, for the message.
        flag: The flag that names columns, for the message.

    Raises:
        DataError: A column that the user names is not there, or none holds images.
    """
    there, typed = list(present), list(images)
    chosen = {role: tuple(text.split(",")) for role, text in named.items()}
    for role, names in chosen.items():
        for name in names:
            if name not in there:
                raise DataError(
                    f"{where} has no column {name!r} for {flag} {role}=: {closest(name, there)}"
                )
    for role, known in COLUMN_NAMES.items():
        found = next((name for name in known if name in there), None)
        if role not in chosen and found is not None:
            chosen[role] = (found,)
    if "images" not in chosen and len(typed) == 1:
        chosen["images"] = (typed[0],)
    if "images" not in chosen:
        raise DataError(
            f"{where} has no column with a known name for images (it has {', '.join(there)}); "
            f"name it with {flag} images=COLUMN"
        )
    return chosen


def answers_of(value: Any) -> list[str]:
    """Return the answers of a cell: a text, a list of texts, or VQA-v2's list of ``{"answer": …}``."""
    if value is None:
        return []
    entries = value if isinstance(value, list | tuple) else [value]
    return [text_of(entry["answer"] if _is_vote(entry) else entry) for entry in entries]


def text_of(value: Any) -> str:
    """Return a cell as text; a truth value as NLVR2 writes its verdicts, in small letters."""
    text = str(value).strip()
    return text.lower() if text in ("True", "False") else text


def _is_vote(entry: Any) -> bool:
    return isinstance(entry, Mapping) and "answer" in entry
