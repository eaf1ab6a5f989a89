"""Keep data sets that lie in a local folder off the network: nothing in their files can send for something elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moir_edge.errors import DataError
from moir_edge.json_files import read_bounded
from moir_edge.limits import JSON_BYTES

__all__ = ["refuse_odd_files", "refuse_remote_address", "refuse_remote_files"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# Archives and files of this machine; `datasets` chains them, as in zip://a.png::/data/x.zip.
_LOCAL = frozenset({"file", "local", "zip", "tar", "gzip", "bz2", "xz", "zstd", "lz4", "memory"})
# Where a data set may name its own files; `datasets` reads both.
_CARD, _SETTINGS = "README.md", ".huggingface.yaml"


def refuse_remote_address(address: str, folder: Path, where: str) -> None:
    """Refuse an address on the network in a data set that lies in a folder.

    Args:
        address: What a row names.
        folder: Where the data set lies; an id on the hub is not a folder, and may name what it wants.
        where: The row, for the message.

    Raises:
        DataError: It is one.
    """
    if _is_remote(address) and folder.is_dir():
        raise DataError(
            f"{where}: image {address} lies on the network, and {folder} is a local data set, for which nothing is "
            "fetched; download the image and name its file"
        )


def refuse_odd_files(folder: Path) -> None:
    """Refuse a local data set that holds a pipe or a device, which the library would wait for or read without end.

    Args:
        folder: The data set.

    Raises:
        DataError: One lies in the folder, or a link leads to one.
    """
    for path in folder.rglob("*"):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise DataError(f"{path} is not a regular file; take it out of the data set's folder")


def refuse_remote_files(folder: Path) -> None:
    """Refuse a local data set whose card sends for files on the network.

    Args:
        folder: The data set.

    Raises:
        DataError: The card or the settings name an address, or cannot be read.
    """
    for name in (_CARD, _SETTINGS):
        path = folder / name
        record = _settings(path) if path.is_file() else {}
        for text in _texts(record.get("configs")):
            if _is_remote(text):
                raise DataError(
                    f"{path} names files on the network ({text}), and nothing is fetched for a local data set; "
                    "download them and name the files"
                )


def _settings(path: Path) -> Mapping[str, Any]:
    """Return the settings at the head of a card, or a file of settings."""
    import yaml
    from huggingface_hub import DatasetCard

    content = read_bounded(path, JSON_BYTES)
    try:
        text = content.decode("utf-8")
        card: Any = DatasetCard  # its methods are not typed
        found = card(text).data.to_dict() if path.name == _CARD else yaml.safe_load(text)
    except (ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read: {reason}") from error
    return found if isinstance(found, Mapping) else {}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _is_remote(text: str) -> bool:
    return any(scheme.lower() not in _LOCAL for scheme in _SCHEME.findall(text))
