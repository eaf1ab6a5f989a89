"""What a router is made of: the settings that go into a checkpoint's config, a bundle's manifest and every hash."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moir_edge.errors import DataError

__all__ = ["RouterConfig"]


class RouterConfig(BaseModel):
    """Settings of a router (version 1 holds the `token` router).

    A token is weak when its information density is among the lowest `ratio` of its modality in the sample, or lies
    under `threshold`; with both given either suffices.

    Attributes:
        version: Format of this record on disk.
        kind: Which router.
        density: How information density is scored: a learned head on the normalised token (`confidence`), or the
            entropy of the token's energy over its channels (`entropy`).
        ratio: Lowest share of a modality's tokens that is enriched, in [0, 1]; None leaves it to `threshold`.
        threshold: Density in [0, 1] under which a token is enriched; None leaves it to `ratio`.
        top_k: Number of matching tokens of the other modality that enrich one token.
        rank: Width of the query/key space and of the low-rank output projection.
        merge: How the matching information enters the token.
        direction: Which modality is enriched from which; `auto` enriches, per sample, the modality whose mean
            density is lower.
        temperature: Width, in density, of the smooth gate used in training; inference uses the hard gate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    kind: Literal["token"] = "token"
    density: Literal["confidence", "entropy"] = "confidence"
    ratio: float | None = Field(default=0.5, ge=0.0, le=1.0)
    threshold: float | None = Field(default=None, ge=0.0, le=1.0)
    top_k: int = Field(default=4, ge=1, le=64)
    rank: int = Field(default=32, ge=1)
    merge: Literal["add", "concat", "interpolate"] = "add"
    direction: Literal["both", "text-to-image", "image-to-text", "auto"] = "both"
    temperature: float = Field(default=0.1, gt=0.0)

    @model_validator(mode="after")
    def _some_rule(self) -> RouterConfig:
        if self.ratio is None and self.threshold is None:
            raise ValueError(
                "neither ratio nor threshold is set, so no token could be weak; set one of them"
            )
        return self

    @classmethod
    def from_record(cls, record: object) -> RouterConfig:
        """Read the settings back from JSON data (a checkpoint's config or a bundle's manifest).

        Args:
            record: What `to_record` returned; keys that other parts added are an error, not ignored.

        Raises:
            DataError: A key is unknown, or a value is out of range, or the version is newer.
        """
        try:
            return cls.model_validate(record)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "record"
            raise DataError(
                f"router config: {where}: {first['msg']} (got {str(first['input'])[:60]!r}); "
                "it was written by another version of moir-edge or edited by hand"
            ) from error

    def to_record(self) -> dict[str, Any]:
        """Return the settings as plain JSON data, for a checkpoint's config or a bundle's manifest."""
        return self.model_dump(mode="json")

    def hash(self) -> str:
        """Return the SHA-256 (64 hex digits) of the settings' canonical JSON: sorted keys, no spaces."""
        text = json.dumps(self.to_record(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
