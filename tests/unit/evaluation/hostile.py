"""A report whose names and texts try to steer the terminal, to be markup, and to end a script or drawing."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

HOSTILE = '\x1b[2J[red]\r\n</script></svg><script>alert(1)</script>"\u202e\x9b\x00|[/red]:bomb:'
_TEXTS = (
    *("name", "candidate", "reference", "baseline", "path", "file", "cpu", "system", "prompt", "text", "reference_text"),
    *("reason", "routing_reason", "attention_reason", "id", "notices", "answers", "reply", "python", "command"),
)  # fmt: skip

Report = TypeVar("Report", bound=BaseModel)


def spoil(report: Report) -> Report:
    """Return a report with `HOSTILE` behind the texts of these fields, at every depth."""
    spoiled: Report = _spoiled(report, "")
    assert spoiled != report
    return spoiled


def steers(text: str) -> bool:
    """Return whether a text holds a character that a terminal obeys, besides line feeds."""
    return any(one in text for one in "\x1b\r\x9b\x00\u202e")


def _spoiled(value: Any, field: str) -> Any:
    if isinstance(value, BaseModel):
        fields = {name: _spoiled(getattr(value, name), name) for name in type(value).model_fields}
        return value.model_copy(update=fields)
    if isinstance(value, tuple | list):
        return type(value)(_spoiled(one, field) for one in value)
    if isinstance(value, dict):
        return {key: _spoiled(one, field) for key, one in value.items()}
    return value + HOSTILE if isinstance(value, str) and field in _TEXTS else value
