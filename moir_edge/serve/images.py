"""Images of a request: data URLs, and hosts and folders that the operator allows by name."""

from __future__ import annotations

import base64
import binascii
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from moir_edge.errors import one_line
from moir_edge.printable import bounded
from moir_edge.runtime.images import image_file_bytes
from moir_edge.serve.errors import ApiError

__all__ = ["ImageSources"]

_SECONDS = 10
_PART = 1 << 16
_SHOWN = 80


@dataclass(frozen=True, kw_only=True)
class ImageSources:
    """Where images may come from.

    Attributes:
        hosts: Hosts of ``http`` and ``https`` URLs that are fetched; none by default.
        folder: Folder whose files ``file`` URLs may name; None refuses them.
        max_pixels: Width times height of an image at most; None takes the runtime's own limit.
    """

    hosts: Sequence[str] = ()
    folder: Path | None = None
    max_pixels: int | None = None

    @property
    def most_bytes(self) -> int:
        """The most bytes of one image file."""
        return image_file_bytes(self.max_pixels)

    def read(self, url: str, param: str) -> bytes:
        """Return the bytes of an image file.

        Args:
            url: A ``data``, ``http``, ``https`` or ``file`` URL.
            param: The field of the request, for messages.

        Raises:
            ApiError: The URL is not allowed, damaged, or gives too much.
        """
        scheme = url[:8].partition(":")[0].lower()
        if scheme == "data":
            return self._data(url, param)
        if scheme in ("http", "https"):
            return self._fetched(url, param)
        if scheme == "file":
            return self._file(url, param)
        raise ApiError(
            400,
            f"{param} begins with {bounded(url, _SHOWN)!r}; expected a data URL such as data:image/png;base64,…",
            param=param,
        )

    def _data(self, url: str, param: str) -> bytes:
        head, comma, content = url.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise ApiError(
                400,
                f"{param} is a data URL without base64 content; expected data:image/png;base64,…",
                param=param,
            )
        if len(content) > 4 * (self.most_bytes // 3 + 2):
            raise self._too_large(param)
        try:
            return base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ApiError(400, f"{param} is not base64: {one_line(error)}", param=param) from None

    def _fetched(self, url: str, param: str) -> bytes:
        host = _host(url, param)
        if host not in self.hosts:
            raise ApiError(
                403,
                f"{param} names the host {host!r}, which the server does not allow; send the image as a data URL",
                param=param,
            )
        try:
            content = _get(url, self.most_bytes + 1)
        except (HTTPException, OSError, ValueError) as error:
            if isinstance(error, HTTPError):
                error.close()
            reason = one_line(getattr(error, "reason", None) or error)
            raise ApiError(
                400,
                f"{param} cannot be fetched from {host}: {reason}; send the image as a data URL",
                param=param,
            ) from None
        if len(content) > self.most_bytes:
            raise self._too_large(param)
        return content

    def _file(self, url: str, param: str) -> bytes:
        if self.folder is None:
            raise ApiError(
                403,
                f"{param} names a file of the server, which it does not allow; send the image as a data URL",
                param=param,
            )
        try:
            content = _file_within(self.folder, url, self.most_bytes + 1)
        except (OSError, ValueError):
            raise ApiError(
                403, f"{param} names no file in the folder that the server allows", param=param
            ) from None
        if len(content) > self.most_bytes:
            raise self._too_large(param)
        return content

    def _too_large(self, param: str) -> ApiError:
        return ApiError(
            413,
            f"{param} holds more than {self.most_bytes:,} bytes, the most of an image; send a smaller one",
            param=param,
        )


def _file_within(folder: Path, url: str, most: int) -> bytes:
    """Return at most `most` bytes of a regular file in a folder; links that lead out of it count as outside.

    Raises:
        OSError: It cannot be read, or is not in the folder.
        ValueError: The URL is not one.
    """
    root = os.path.realpath(folder)
    path = os.path.realpath(unquote(urlsplit(url).path))
    if os.path.commonpath([root, path]) != root or not os.path.isfile(path):
        raise FileNotFoundError(path)
    with open(path, "rb") as stream:
        return stream.read(most)


def _get(url: str, most: int) -> bytes:
    """Return at most `most` bytes of what a URL gives within `_SECONDS`."""
    deadline = time.monotonic() + _SECONDS
    content = bytearray()
    opener = build_opener(_NoRedirect(), ProxyHandler({}))
    with opener.open(Request(url), timeout=_SECONDS) as answer:
        while len(content) < most and (part := answer.read1(min(_PART, most - len(content)))):
            content += part
            if time.monotonic() > deadline:
                raise TimeoutError(f"it takes longer than {_SECONDS} s")
    return bytes(content)


class _NoRedirect(HTTPRedirectHandler):
    """An allowed host may not lead to another one."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow nothing, so that the answer counts as an error."""


def _host(url: str, param: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError as error:
        raise ApiError(400, f"{param} is not a URL: {one_line(error)}", param=param) from None
