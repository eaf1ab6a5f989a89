"""Alter JSON with a look at its structure: types, numbers, keys, nesting, and the text itself."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

__all__ = ["alter_json", "alter_text", "alter_value"]

Steps = tuple[Any, ...]

_NUMBERS = (
    0, -1, 1, 2, 3, 255, 2**16, 10**5, 10**6, 10**9, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63, 2**64, 10**30, -(2**63),
    0.0, -0.0, 0.5, 1e-320, 1e-30, 1e30, 1e308, -1.5,
)  # fmt: skip
_STRINGS = (
    "", " ", "\0", "\ud800", "../../../etc/hostname", "/etc/hostname", "C:\\x", "a/../b", ".", "..", "é" * 300,
    "\x1b[2J\x1b]0;x\a", "\u202e\u200b", "nan", "None", "true", "0", "{{ 1 }}", "%s%n", "<image>", "\r\n\r\n",
)  # fmt: skip


def alter_json(rng: random.Random, text: str, *, largest: int = 1 << 22) -> tuple[str, str]:
    """Return an altered JSON text, and how in a few words.

    Args:
        rng: Decides.
        text: Valid JSON.
        largest: Characters of the largest thing that is put in.
    """
    if rng.random() < 0.12:
        return alter_text(rng, text, largest=largest)
    value = json.loads(text)
    notes = []
    raw: dict[str, str] = {}
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        value, note = alter_value(rng, value, raw, largest=largest)
        notes.append(note)
    altered = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    for mark, fragment in raw.items():
        altered = altered.replace(f'"{mark}"', fragment)
    return altered, "; ".join(notes)


def alter_text(rng: random.Random, text: str, *, largest: int = 1 << 22) -> tuple[str, str]:
    """Return a JSON text that is damaged as text, or another one altogether."""
    deep = rng.choice((100, 1000, 5000, 100_000, largest // 4))
    ways = {
        "cut": lambda: text[: rng.randrange(len(text))],
        "garbage after": lambda: text + "}",
        "byte order mark": lambda: "\ufeff" + text,
        "empty": lambda: "",
        "white space": lambda: " " * rng.choice((1, 1000, largest)),
        f"{deep} lists": lambda: "[" * deep + "]" * deep,
        f"{deep} open lists": lambda: "[" * deep,
        f"{deep} objects": lambda: '{"a":' * deep + "1" + "}" * deep,
        "another type": lambda: rng.choice(
            ("null", "[]", "3", '"x"', "true", "1e999", "{}", "NaN")
        ),
        "twice": lambda: text + text,
        "a long number": lambda: "9" * rng.choice((400, 5000, largest // 8)),
        "a long string": lambda: '"' + "x" * largest + '"',
        "quotes": lambda: text.replace('"', "'"),
    }
    way = rng.choice(sorted(ways))
    return ways[way](), way


def alter_value(
    rng: random.Random, value: Any, raw: dict[str, str], *, largest: int = 1 << 22
) -> tuple[Any, str]:
    """Return a copy with one thing altered, and how.

    Args:
        rng: Decides.
        value: Decoded JSON.
        raw: Takes text that JSON's writer does not write, by the string that stands for it.
        largest: Characters of the largest thing that is put in.
    """
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places:
        return _odd(rng, value, raw, largest), "the whole"
    parent, key = rng.choice(places)
    name = f"{key}" if isinstance(key, str) else f"[{key}]"
    kind = rng.choice(
        ("odd", "odd", "odd", "near", "near", "drop", "twice", "swap", "rename", "add")
    )
    if kind == "near":
        parent[key] = _near(rng, parent[key], raw)
    elif kind == "drop":
        del parent[key]
    elif kind == "twice":
        _repeat(rng, parent, key, raw)
    elif kind == "swap":
        other_parent, other = rng.choice(places)
        one, two = copy.deepcopy((parent[key], other_parent[other]))
        parent[key] = two
        if other in _keys(other_parent):
            other_parent[other] = one
    elif kind == "rename" and isinstance(parent, dict):
        parent[rng.choice((key.upper(), key + "s", "", "__class__", "\ud800", key[:-1]))] = (
            parent.pop(key)
        )
    elif kind == "add" and isinstance(parent, dict):
        parent[rng.choice(("extra", "__proto__", "x" * 1000, "$ref"))] = _odd(
            rng, None, raw, largest
        )
    else:
        kind = "odd"
        parent[key] = _odd(rng, parent[key], raw, largest)
    return value, f"{kind} {name[:40]}"


def _places(value: Any) -> Any:
    """Yield every (container, key)."""
    for key in _keys(value):
        yield value, key
        yield from _places(value[key])


def _keys(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value)
    return list(range(len(value))) if isinstance(value, list) else []


def _odd(rng: random.Random, before: Any, raw: dict[str, str], largest: int) -> Any:
    """Return something that hardly fits: another type, an extreme, a bomb."""
    kind = rng.choice(("number", "number", "string", "string", "empty", "raw", "wrap", "large"))
    if kind == "number":
        return rng.choice(_NUMBERS)
    if kind == "string":
        return rng.choice(_STRINGS)
    if kind == "empty":
        return rng.choice((None, True, False, [], {}, [[]], [None], [{}], {"": None}))
    if kind == "wrap":
        return rng.choice(([before], {"x": before}, [before, before], str(before), [[before]]))
    deep = rng.choice((50, 900, 3000, 50_000))
    count = rng.choice((100, 10_000, largest // 4))
    fragments = (
        "NaN", "Infinity", "-Infinity", "1e999", "9" * rng.choice((400, 4000, 50_000)),
        "[" * deep + "]" * deep, '{"a":' * deep + "0" + "}" * deep,
    )  # fmt: skip
    large = ("[" + "0," * count + "0]", '"' + "a" * count + '"', "[" + '"",' * count + '""]')
    return _marked(raw, rng.choice(fragments if kind == "raw" else large))


def _near(rng: random.Random, before: Any, raw: dict[str, str]) -> Any:
    """Return something of the same type that may well be taken."""
    if isinstance(before, bool):
        return not before
    if isinstance(before, int | float):
        factor = rng.choice((-1, 0, 2, 10, 1000, 10**6, 10**12))
        return rng.choice((before + 1, before - 1, before * factor, rng.choice(_NUMBERS)))
    if isinstance(before, str):
        return _near_text(rng, before, raw)
    if isinstance(before, list) and before:
        longer = before * rng.choice((2, 10, 1000)) if len(before) < 1000 else before * 2
        return rng.choice((before[:-1], before[::-1], longer, [*before, None]))
    return before


def _near_text(rng: random.Random, before: str, raw: dict[str, str]) -> Any:
    ways = (
        before[:-1],
        before.upper(),
        before + "x",
        before[::-1],
        before * 50,
        f" {before}",
        f"../{before}",
    )
    if rng.random() < 0.2:
        return _marked(raw, '"' + "\\ud83d" + json.dumps(before)[1:])
    return rng.choice(ways)


def _repeat(rng: random.Random, parent: Any, key: Any, raw: dict[str, str]) -> None:
    """Write a key twice, or an element often."""
    if isinstance(parent, list):
        parent[key:key] = [parent[key]] * rng.choice((1, 10, 1000))
        return
    try:
        again = json.dumps(parent[key])
        other = json.dumps(rng.choice((None, 0, "", [], parent[key])))
    except (TypeError, ValueError):
        return
    parent[key] = _marked(raw, f"{other}, {json.dumps(key)}: {again}")


def _marked(raw: dict[str, str], fragment: str) -> str:
    mark = f"@@{len(raw)}@@"
    raw[mark] = fragment
    return mark
