from __future__ import annotations

from pathlib import Path

import pytest

from moir_edge.errors import DataError
from moir_edge.evaluation.candidates import spec_of


def test_bundle_checkpoint_and_hub_id(tmp_path: Path) -> None:
    bundle, checkpoint = tmp_path / "bundle", tmp_path / "checkpoint"
    for folder, name in ((bundle, "manifest.json"), (checkpoint, "config.json")):
        folder.mkdir()
        (folder / name).write_text('{"model_type": "llava"}')
    kinds = [spec_of(one, threads=1, max_new_tokens=4).kind for one in (bundle, checkpoint)]
    assert kinds == ["bundle", "checkpoint"]
    hub = spec_of("owner/some-vlm", threads=1, max_new_tokens=4, hub=True)
    assert (hub.kind, hub.name) == ("checkpoint", "owner/some-vlm")


def test_anything_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder; give a bundle or a checkpoint"):
        spec_of("owner/some-vlm", threads=1, max_new_tokens=4)
    with pytest.raises(DataError, match="no such folder"):
        spec_of(tmp_path / "gone", threads=1, max_new_tokens=4, hub=True)
    with pytest.raises(DataError, match=r"neither a bundle .* nor a checkpoint"):
        spec_of(tmp_path, threads=1, max_new_tokens=4)
