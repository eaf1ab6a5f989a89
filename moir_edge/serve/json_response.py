"""JSON of answers and errors."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from moir_edge.finite import json_text
from moir_edge.serve.errors import ApiError

__all__ = ["json_response", "problem", "text_of"]


def text_of(data: Any) -> str:
    """Return JSON in one line, in ASCII: text of a client may hold halves of characters, which UTF-8 cannot."""
    return json_text(data, separators=(",", ":"))


def json_response(data: Any) -> Response:
    """Return data as a response."""
    return Response(text_of(data), media_type="application/json")


def problem(error: ApiError) -> Response:
    """Return an error as a response."""
    return Response(
        text_of(error.body),
        status_code=error.status,
        headers=error.headers,
        media_type="application/json",
    )
