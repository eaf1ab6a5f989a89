"""Which candidates count as one model: real checkpoints on disk, and manifests."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from moir_edge import __version__
from moir_edge.errors import BundleError, DataError
from moir_edge.evaluation.candidates import specs_of
from moir_edge.evaluation.identity import identify_pairs, identify_same, pair_notices, same_notices
from moir_edge.evaluation.provenance import ModelIdentity

from .fakes import write_manifest

if TYPE_CHECKING:
    from moir_edge.export import TracedModel


def _same(*sources: Path, **options: bool) -> tuple[ModelIdentity, ...]:
    return identify_same(_specs(*sources), **options)


def _specs(*sources: Path) -> Any:
    return specs_of(sources, threads=1, max_new_tokens=1, hub=())


def _with_other_weights(checkpoint: Path, folder: Path) -> Path:
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if "moir_router" in name)
    weights[name] = weights[name] + 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _with_router(folder: Path, change: dict[str, Any] | None) -> Path:
    """Change the router's settings in a checkpoint's config, or take the router out."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["moir_router"] = None if change is None else {**config["moir_router"], **change}
    path.write_text(json.dumps(config))
    return folder


def test_a_bundle_and_its_checkpoint_are_one_model_wherever_it_lies(
    checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(checkpoint, tmp_path / "moved"))
    own, exported = _same(moved, bundle)
    assert own.weights_sha256 == exported.weights_sha256
    # the hash that export documents: names and hashes of the files, in name order
    file = hashlib.sha256((moved / "model.safetensors").read_bytes()).hexdigest()
    assert own.weights_sha256 == hashlib.sha256(f"model.safetensors:{file}\n".encode()).hexdigest()
    assert (own.kind, own.checkpoint, exported.checkpoint) == ("checkpoint", "moved", "checkpoint")
    assert own.router == exported.router
    assert own.router is not None
    assert "special_token_ids" not in own.router
    assert same_notices((own, exported)) == ()


def test_other_weights_are_refused_with_both_hashes(
    checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    other = _with_other_weights(checkpoint, tmp_path / "tuned")
    own, exported = _same(other, bundle, allow_other=True)
    assert own.weights_sha256 != exported.weights_sha256
    with pytest.raises(DataError) as refused:
        _same(other, bundle)
    message = str(refused.value)
    assert message.startswith("tuned is a different model from bundle, their weights differ: ")
    assert f"tuned is tuned (weights sha256 {own.weights_sha256}, a token router)" in message
    assert (
        f"bundle is checkpoint (weights sha256 {exported.weights_sha256}, a token router)"
        in message
    )
    assert "the same weights in other shards" in message
    assert "\n" not in message
    (notice,) = same_notices((own, exported))
    assert str(own.weights_sha256) in notice
    assert str(exported.weights_sha256) in notice


def test_other_settings_of_the_router_are_another_model(
    checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    edited = _with_router(Path(shutil.copytree(checkpoint, tmp_path / "edited")), {"ratio": 0.25})
    with pytest.raises(DataError, match="their routers have other settings"):
        _same(edited, bundle)


def test_a_router_on_one_side_only_is_refused_both_ways(
    checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    bare = _with_router(Path(shutil.copytree(checkpoint, tmp_path / "bare")), None)
    with pytest.raises(DataError, match=r"only bundle has a router: .*no router"):
        _same(bare, bundle)
    with pytest.raises(DataError, match="only checkpoint has a router"):
        _same(checkpoint, write_manifest(tmp_path / "plain"))


def test_the_same_weights_in_shards_are_named_as_a_reason(
    checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(checkpoint, tmp_path / "sharded"))
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for at, names in enumerate((sorted(weights)[:5], sorted(weights)[5:]), start=1):
        shard = {name: weights[name] for name in names}
        save_file(shard, folder / f"model-0000{at}-of-00002.safetensors")
    with pytest.raises(DataError, match="the same weights in other shards or under other file"):
        _same(folder, bundle)


def test_bundles_are_told_apart_before_a_checkpoint_is_hashed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(folder: Path) -> str:
        raise AssertionError(f"{folder} was hashed")

    one, two = write_manifest(tmp_path / "one"), write_manifest(tmp_path / "two", weights="b" * 64)
    with monkeypatch.context() as patch:
        patch.setattr("moir_edge.weights.weights_sha256", explode)
        with pytest.raises(DataError, match="two is a different model from one"):
            _same(checkpoint, one, two)


def test_a_checkpoint_without_safetensors_cannot_be_told_apart(
    checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "pickled"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pickled has no \*\.safetensors file to tell its weights"):
        _same(folder, bundle)
    assert _same(folder, bundle, allow_other=True)[0].weights_sha256 is None


def test_a_damaged_manifest_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_manifest(tmp_path / "broken")
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(BundleError, match="has no schema_version"):
        _same(folder)


def test_a_diagnosis_takes_several_checkpoints_but_no_stranger_bundle(
    checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    other = _with_other_weights(checkpoint, tmp_path / "tuned")
    models = identify_pairs(_specs(other, checkpoint, bundle))
    assert pair_notices(models) == ()
    with pytest.raises(
        DataError, match="bundle is a different model from tuned, their weights differ"
    ):
        identify_pairs(_specs(other, bundle))
    (notice,) = pair_notices(identify_pairs(_specs(other, bundle), allow_other=True))
    assert notice.startswith("The models differ")
    # bundles alone: models are set side by side on purpose
    alone = identify_pairs(_specs(bundle, write_manifest(tmp_path / "plain")))
    assert pair_notices(alone) == ()


def test_a_bundle_says_how_it_was_quantized(traced: TracedModel, tmp_path: Path) -> None:
    from moir_edge.export import assemble

    folder = assemble(
        traced, tmp_path / "int4", precision="int4", component_precision={"vision": "fp32"}
    )
    (one,) = _same(folder)
    assert one.bundle is not None
    manifest = (folder / "manifest.json").read_bytes()
    assert one.bundle.manifest_sha256 == hashlib.sha256(manifest).hexdigest()
    parts = one.bundle.components
    assert (parts["vision"].precision, parts["vision"].method) == ("fp32", None)
    assert (parts["decoder"].precision, parts["decoder"].method) == (
        "int4",
        "weights only, int4 by rtn",
    )
    assert parts["decoder"].block_size == 32
    assert one.bundle.calibration is None
    assert one.bundle.created_with["moir-edge"] == __version__
