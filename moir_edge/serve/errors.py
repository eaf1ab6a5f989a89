"""Errors in the form in which OpenAI's API states them."""

from __future__ import annotations

from typing import Any

from moir_edge.errors import DataError, MoirEdgeError, UnsupportedError, one_line

__all__ = ["ApiError", "api_error"]

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}


class ApiError(Exception):
    """An answer that tells a client what is wrong.

    Args:
        status: The HTTP status.
        message: What was got, what was expected and how to fix it.
        param: The field of the request that is wrong.
        code: A word for programs.
        retry_after: Seconds after which the same request may succeed.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object of the answer."""
        kind = _KINDS.get(self.status, "server_error")
        error = {
            "message": one_line(self),
            "type": kind,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """The headers that belong to the answer."""
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            found["WWW-Authenticate"] = "Bearer"
        return found


def api_error(error: Exception) -> ApiError:
    """Return the answer for what went wrong in the runtime.

    Args:
        error: What was raised. A wrong prompt or image is the client's fault, all else the server's.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, DataError | UnsupportedError):
        told = ApiError(400, str(error))
    elif isinstance(error, MoirEdgeError):
        told = ApiError(500, str(error))
    else:
        told = ApiError(500, f"{type(error).__name__}: {one_line(error)}")
    told.__cause__ = error
    return told
