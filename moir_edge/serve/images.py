"""Images of a request: data URLs, and hosts and folders that the operator allows by name."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from moir_edge.errors import one_line
from moir_edge.printable import bounded
from moir_edge.runtime.images import image_file_bytes
from moir_edge.serve.errors import ApiError

__all__ = ["ImageSources"]

_SECONDS = 10
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
                f"{param} names the host {host!r}, which is not allowed; send the image as a data URL, or start the "
                "server with --allow-image-host for it",
                param=param,
            )
        opener = build_opener(_NoRedirect(), ProxyHandler({}))
        try:
            with opener.open(Request(url), timeout=_SECONDS) as answer:
                content: bytes = answer.read(self.most_bytes + 1)
        except (URLError, OSError, ValueError) as error:
            reason = one_line(getattr(error, "reason", None) or error)
            raise ApiError(
                400, f"{param} cannot be fetched from {host}: {reason}", param=param
            ) from None
        if len(content) > self.most_bytes:
            raise self._too_large(param)
        return content

    def _file(self, url: str, param: str) -> bytes:
        if self.folder is None:
            raise ApiError(
                403,
                f"{param} names a file of the server, which is not allowed; send the image as a data URL, or start the "
                "server with --allow-image-folder",
                param=param,
            )
        root = os.path.realpath(self.folder)
        path = os.path.realpath(unquote(urlsplit(url).path).replace("\0", ""))
        if os.path.commonpath([root, path]) != root or not os.path.isfile(path):
            raise ApiError(
                403,
                f"{param} names no file in the folder of --allow-image-folder",
                param=param,
            )
        with open(path, "rb") as stream:
            content = stream.read(self.most_bytes + 1)
        if len(content) > self.most_bytes:
            raise self._too_large(param)
        return content

    def _too_large(self, param: str) -> ApiError:
        return ApiError(
            413,
            f"{param} holds more than {self.most_bytes:,} bytes, the most of an image; send a smaller one",
            param=param,
        )


class _NoRedirect(HTTPRedirectHandler):
    """An allowed host may not lead to another one."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow nothing, so that the answer counts as an error."""


def _host(url: str, param: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError as error:
        raise ApiError(400, f"{param} is not a URL: {one_line(error)}", param=param) from None
