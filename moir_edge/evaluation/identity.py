"""Identify candidates: all of one report must come from the same weights and router."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moir_edge.bundle import Bundle, open_bundle
from moir_edge.bundle.manifest import MANIFEST_NAME
from moir_edge.bundle.reader import file_sha256
from moir_edge.environment import require
from moir_edge.errors import DataError
from moir_edge.evaluation.candidates import CandidateSpec
from moir_edge.evaluation.provenance import (
    BundleOrigin,
    CalibrationOrigin,
    ComponentOrigin,
    ModelIdentity,
)

__all__ = [
    "bundle_origin",
    "difference",
    "identify",
    "identify_pairs",
    "identify_same",
    "pair_notices",
    "same_notices",
]

_REMEDY = (
    "name bundles of this very checkpoint, or export it again. The hash covers the names and bytes of the "
    "*.safetensors files, so the same weights in other shards or under other file names count as another model: "
    "then, or to compare two models on purpose, allow it with `allow_other=True`"
)
_HASH_FILES = "*.safetensors"


def identify(spec: CandidateSpec) -> ModelIdentity:
    """Read a bundle's manifest, or hash a checkpoint's weight files (about 1 GB/s); nothing is loaded.

    Raises:
        BundleError: The manifest cannot be read.
        DataError: The checkpoint's config cannot be read, or its hub id cannot be fetched.
        EnvironmentProblem: It is a checkpoint, and torch or transformers is not installed.
    """
    if spec.kind == "bundle":
        return _of_bundle(spec, open_bundle(spec.source, verify=False))
    return _of_checkpoint(spec)


def identify_same(
    specs: Sequence[CandidateSpec], *, allow_other: bool = False
) -> tuple[ModelIdentity, ...]:
    """Identify every candidate and refuse one that is a different model from the first.

    Manifests are read first, so that bundles of two models are refused before a checkpoint is hashed.

    Args:
        specs: At least one.
        allow_other: Refuse nothing.

    Returns:
        One identity per candidate, in their order.

    Raises:
        DataError: Two candidates are not the same model; both names and both hashes are in the message.
    """
    order = sorted(range(len(specs)), key=lambda at: specs[at].kind != "bundle")
    found: dict[int, ModelIdentity] = {}
    for at in order:
        found[at] = identify(specs[at])
        if not allow_other:
            _refuse(found[at], found[order[0]])
    return tuple(found[at] for at in range(len(specs)))


def identify_pairs(
    specs: Sequence[CandidateSpec], *, allow_other: bool = False
) -> tuple[ModelIdentity, ...]:
    """Identify every candidate and refuse a bundle that comes from none of the checkpoints beside it.

    Several checkpoints, or bundles alone, may be different models: a diagnosis sets models side by side on purpose.

    Args:
        specs: At least one.
        allow_other: Refuse nothing.

    Raises:
        DataError: A bundle stands beside checkpoints and comes from none of them.
    """
    found = tuple(identify(spec) for spec in specs)
    strangers = _strangers(found)
    if strangers and not allow_other:
        _refuse(strangers[0], _checkpoints(found)[0])
    return found


def difference(one: ModelIdentity, other: ModelIdentity) -> str | None:
    """Say in which way two candidates are different models; None where they are the same one."""
    if (one.router is None) != (other.router is None):
        with_router = one if one.router else other
        return f"only {with_router.name} has a router"
    if one.weights_sha256 is None or other.weights_sha256 is None:
        unknown = one if one.weights_sha256 is None else other
        return f"{unknown.name} has no {_HASH_FILES} file to tell its weights by"
    if one.weights_sha256 != other.weights_sha256:
        return "their weights differ"
    return "their routers have other settings" if one.router != other.router else None


def same_notices(models: Sequence[ModelIdentity]) -> tuple[str, ...]:
    """Return what a report must say at the top where `identify_same` was told to allow different models."""
    return _notices(models[0], [one for one in models[1:] if difference(one, models[0])])


def pair_notices(models: Sequence[ModelIdentity]) -> tuple[str, ...]:
    """Return what a report must say at the top where `identify_pairs` was told to allow different models."""
    strangers = _strangers(models)
    return _notices(_checkpoints(models)[0], strangers) if strangers else ()


def _notices(first: ModelIdentity, others: Sequence[ModelIdentity]) -> tuple[str, ...]:
    if not others:
        return ()
    described = "; ".join(one.described() for one in (first, *others))
    return (
        f"The models differ, so figures between them do not measure an export alone: {described}.",
    )


def _checkpoints(models: Sequence[ModelIdentity]) -> list[ModelIdentity]:
    return [one for one in models if one.kind == "checkpoint"]


def _strangers(models: Sequence[ModelIdentity]) -> list[ModelIdentity]:
    """Return the bundles that come from none of the checkpoints; nothing without a checkpoint."""
    checkpoints = _checkpoints(models)
    return [
        one
        for one in models
        if one.kind == "bundle" and checkpoints and all(difference(one, c) for c in checkpoints)
    ]


def _refuse(one: ModelIdentity, other: ModelIdentity) -> None:
    reason = difference(one, other)
    if reason is not None:
        raise DataError(
            f"{one.name} is a different model from {other.name}, {reason}: {one.described()}, "
            f"{other.described()}; {_REMEDY}"
        )


def bundle_origin(bundle: Bundle) -> BundleOrigin:
    """Return how a bundle was made, as its manifest says."""
    manifest = bundle.manifest
    record = manifest.calibration or {}
    data = record.get("data")
    return BundleOrigin(
        manifest_sha256=file_sha256(bundle.path / MANIFEST_NAME),
        target=manifest.target,
        precision=manifest.precision,
        mixed="mix" in record,
        components={
            name: ComponentOrigin(
                precision=entry.precision,
                method=record.get(name, {}).get("method"),
                block_size=record.get(name, {}).get("block_size"),
            )
            for name, entry in manifest.components.items()
        },
        calibration=None
        if data is None
        else CalibrationOrigin(
            file=data["file"],
            sha256=data["sha256"],
            rows=data["rows"],
            ranges=data.get("range"),
            smoothing=data.get("smoothing"),
        ),
        created_with=manifest.created_with,
    )


def _of_bundle(spec: CandidateSpec, bundle: Bundle) -> ModelIdentity:
    manifest = bundle.manifest
    return ModelIdentity(
        name=spec.name,
        kind="bundle",
        source=spec.source,
        checkpoint=manifest.source.name,
        weights_sha256=manifest.source.sha256,
        router=_settings(manifest.router),
        bundle=bundle_origin(bundle),
    )


def _of_checkpoint(spec: CandidateSpec) -> ModelIdentity:
    require("torch", "transformers")
    from moir_edge.data.formats.files import read_json
    from moir_edge.weights import resolve_checkpoint, weights_sha256

    folder = resolve_checkpoint(spec.source)
    hashed = weights_sha256(folder) if any(folder.glob(_HASH_FILES)) else None
    is_folder = Path(spec.source).is_dir()
    return ModelIdentity(
        name=spec.name,
        kind="checkpoint",
        source=spec.source,
        checkpoint=folder.resolve().name if is_folder else spec.source,
        weights_sha256=hashed,
        router=_settings(read_json(folder / "config.json").get("moir_router")),
    )


def _settings(record: Any) -> dict[str, Any] | None:
    """Return a router's settings in one form, without the token ids that a checkpoint's config stores beside them."""
    from moir_edge.router.config import RouterConfig

    if record is None:
        return None
    if isinstance(record, dict):
        record = {name: value for name, value in record.items() if not name.endswith("_token_ids")}
    return RouterConfig.from_record(record).to_record()
