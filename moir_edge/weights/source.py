"""Find the folder of a checkpoint, given as a folder or as a hub id, and hash its weights."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from moir_edge.arguments import folder_or_id, given_path
from moir_edge.checked import checked
from moir_edge.errors import DataError, one_line
from moir_edge.weights.foreign import describe_file

__all__ = ["resolve_checkpoint", "weights_sha256"]

_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@checked(checkpoint=folder_or_id)
def resolve_checkpoint(checkpoint: str | Path, **hub: Any) -> Path:
    """Return the folder of a checkpoint; the files of a hub id are fetched unless they are in the cache.

    Args:
        checkpoint: Folder or hub id.
        **hub: Passed on to the hub, such as `revision`, `token` or `cache_dir`.

    Raises:
        DataError: It is neither a folder with a config nor a reachable hub id.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise DataError(f"{checkpoint} is not a checkpoint folder: {describe_file(folder)}")
    if folder.exists() or not _HUB_ID.fullmatch(str(checkpoint)):
        raise DataError(
            f"{checkpoint} is not a checkpoint folder: there is no such folder; give a folder with config.json or a hub id"
        )
    return _snapshot(str(checkpoint), hub)


def _snapshot(name: str, hub: dict[str, Any]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_FILES, **hub))
    except Exception as error:
        raise DataError(
            f"{name} is neither a folder nor a hub checkpoint that can be fetched "
            f"({one_line(error)}); check the spelling and the network"
        ) from error


@checked(folder=given_path)
def weights_sha256(folder: Path) -> str:
    """Return one SHA-256 over the weight files of a checkpoint, in name order.

    Raises:
        DataError: There are none.
    """
    from moir_edge.bundle.reader import file_sha256

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DataError(f"{folder} holds no *.safetensors file; save the weights as safetensors")
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}:{file_sha256(path)}\n".encode())
    return digest.hexdigest()
